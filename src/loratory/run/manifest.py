"""MANIFEST.json: what a committed directory holds, with size and sha256 of each file and of the manifest itself.

A checkpoint without a manifest that verifies does not exist as far as resume is concerned.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from loratory.errors import IntegrityError
from loratory.run.commit import sha256_file

MANIFEST_NAME = "MANIFEST.json"
SCHEMA = 1


@dataclass(frozen=True, slots=True)
class FileEntry:
    """Size and digest of one file."""

    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a checkpoint promises.

    Attributes:
        run_id: The run that wrote it; a stale checkpoint of another run never counts.
        step: Optimizer steps done.
        parent_step: Step of the checkpoint before it in this run; 0 for the first.
        identity: name -> digest of what must be equal on resume: config, base, data, template.
        files: Relative path -> entry.
    """

    run_id: str
    step: int
    parent_step: int
    identity: Mapping[str, str]
    files: Mapping[str, FileEntry]

    @property
    def size_bytes(self) -> int:
        """Bytes of all files."""
        return sum(entry.size_bytes for entry in self.files.values())


def describe_files(folder: Path) -> dict[str, FileEntry]:
    """Entries of every file below `folder` but the manifest."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST_NAME)
    return {p.relative_to(folder).as_posix(): FileEntry(p.stat().st_size, sha256_file(p)) for p in files}


def to_json(manifest: Manifest) -> str:
    """The one canonical text of a manifest; its own digest is part of it."""
    body: dict[str, object] = {
        "schema": SCHEMA,
        "run_id": manifest.run_id,
        "step": manifest.step,
        "parent_step": manifest.parent_step,
        "identity": dict(manifest.identity),
        "files": {n: {"size_bytes": e.size_bytes, "sha256": e.sha256} for n, e in sorted(manifest.files.items())},
    }
    body["sha256"] = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    return json.dumps(body, indent=2, sort_keys=True) + "\n"


def read_manifest(folder: Path) -> Manifest:
    """Read a manifest.

    Raises:
        IntegrityError: Missing, damaged by a single bit or more, or of a schema this version does not know.
    """
    path = folder / MANIFEST_NAME
    try:
        text = path.read_bytes().decode("utf-8")
        raw = json.loads(text)
        if not isinstance(raw, dict):
            raise IntegrityError(f"{path}: not a manifest")
        if raw.get("schema") != SCHEMA:
            raise IntegrityError(f"{path}: schema {raw.get('schema')!r}; this version reads {SCHEMA}")
        manifest = Manifest(
            run_id=str(raw["run_id"]),
            step=int(raw["step"]),
            parent_step=int(raw["parent_step"]),
            identity={str(k): str(v) for k, v in raw["identity"].items()},
            files={str(n): FileEntry(int(e["size_bytes"]), str(e["sha256"])) for n, e in raw["files"].items()},
        )
    except OSError as error:
        raise IntegrityError(f"{path}: {error.strerror or error}") from error
    except (UnicodeDecodeError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise IntegrityError(f"{path}: damaged ({error})") from error
    if to_json(manifest) != text:
        raise IntegrityError(f"{path}: damaged (its own digest does not match)")
    return manifest


def verify(folder: Path) -> Manifest:
    """Read the manifest of `folder` and check every file against it.

    Raises:
        IntegrityError: Naming the first file that is missing, of another size, or of other content.
    """
    manifest = read_manifest(folder)
    for name, entry in manifest.files.items():
        path = folder / name
        try:
            size_bytes = path.stat().st_size
            if size_bytes != entry.size_bytes:
                raise IntegrityError(f"{path}: {size_bytes} bytes, its manifest says {entry.size_bytes}")
            if sha256_file(path) != entry.sha256:
                raise IntegrityError(f"{path}: content differs from its manifest (sha256)")
        except OSError as error:
            raise IntegrityError(f"{path}: {error.strerror or error}") from error
    return manifest
