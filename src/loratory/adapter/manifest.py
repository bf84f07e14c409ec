"""`loratory_adapter.json`: what an adapter remembers beside PEFT's own files.

PEFT applies an adapter to any base whose shapes fit. The manifest holds the identity of the base it was trained on and
the sha256 of both PEFT files, so that another base, an edited alpha or a flipped bit is found instead of applied.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import loratory
from loratory.errors import IntegrityError

FILE_NAME = "loratory_adapter.json"
CONFIG_FILE = "adapter_config.json"
TENSORS_FILE = "adapter_model.safetensors"
FORMAT = 1
MAX_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class AdapterManifest:
    """The content of the manifest.

    Attributes:
        format: Version of this file's form.
        loratory_version: The version that wrote it.
        base_identity: `LoadedModel.identity` of the base it was trained on.
        quantization: How the base was quantised during training ("nf4", "fp4", "int8"), or None.
        config_sha256: Of adapter_config.json.
        tensors_sha256: Of adapter_model.safetensors.
        template: The prompt template's contract, or None.
    """

    format: int
    loratory_version: str
    base_identity: str
    quantization: str | None
    config_sha256: str
    tensors_sha256: str
    template: dict[str, Any] | None


def write_manifest(
    folder: Path, *, base_identity: str, quantization: str | None, template: Mapping[str, object] | None
) -> AdapterManifest:
    """Write the manifest of the PEFT files that lie in `folder` already."""
    manifest = AdapterManifest(
        format=FORMAT,
        loratory_version=loratory.__version__,
        base_identity=base_identity,
        quantization=quantization,
        config_sha256=sha256_of(folder / CONFIG_FILE),
        tensors_sha256=sha256_of(folder / TENSORS_FILE),
        template=None if template is None else dict(template),
    )
    text = json.dumps(asdict(manifest), indent=2, ensure_ascii=False, sort_keys=True)
    (folder / FILE_NAME).write_text(text + "\n", encoding="utf-8")
    return manifest


def read_manifest(folder: Path) -> AdapterManifest | None:
    """Read the manifest of an adapter folder; None when there is none (an adapter made elsewhere).

    Raises:
        IntegrityError: The file is not a manifest, or of a newer form than this version reads.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        return None
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError("too large")
        found = json.loads(path.read_text(encoding="utf-8"))
        if found.get("format") != FORMAT:
            raise IntegrityError(
                f"{path}: manifest format {found.get('format')!r}; this version of loratory reads format {FORMAT}"
            )
        return AdapterManifest(**found)
    except (OSError, ValueError, TypeError, AttributeError) as fault:
        raise IntegrityError(f"{path}: not an adapter manifest ({fault})") from fault


def verify_manifest(folder: Path, manifest: AdapterManifest, base_identity: str | None) -> None:
    """Check files and base against the manifest.

    Args:
        folder: The adapter's folder.
        manifest: What `read_manifest` returned for it.
        base_identity: Identity of the base at hand, or None to leave the base unchecked.

    Raises:
        IntegrityError: A file was changed after it was written, or the base is another one.
    """
    for name, expected in ((CONFIG_FILE, manifest.config_sha256), (TENSORS_FILE, manifest.tensors_sha256)):
        found = sha256_of(folder / name)
        if found != expected:
            raise IntegrityError(
                f"{folder / name} was changed after the adapter was saved: sha256 {found[:16]}…, "
                f"its manifest says {expected[:16]}…. Restore the file; or delete {FILE_NAME} to use it unverified"
            )
    if base_identity is not None and base_identity != manifest.base_identity:
        raise IntegrityError(
            f"adapter {folder} was trained on another base: base identity {manifest.base_identity[:16]}…, "
            f"the base at hand has {base_identity[:16]}…. Adapters do not transfer between bases; load the right one"
        )


def sha256_of(path: Path) -> str:
    """sha256 hex of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
