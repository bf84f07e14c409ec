"""provenance.json: what a run was made of. Versions and digests only: no environment, no home paths, no secrets."""

import json
import os
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from loratory.errors import IntegrityError
from loratory.run.commit import write_text

_PACKAGES = (
    "loratory",
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "safetensors",
    "tokenizers",
    "numpy",
    "bitsandbytes",
)


@dataclass(frozen=True, slots=True)
class Provenance:
    """What a run was made of.

    Attributes:
        run_id: The run's random name.
        base_identity: sha256 over the base model's weights.
        data: Source name -> sha256 of its bytes.
        template: The template contract.
        threads: CPU threads of the run.
        num_processes: Ranks of the run.
        trainable_parameters: Numbers trained.
        total_parameters: Numbers of the model.
    """

    run_id: str
    base_identity: str
    data: Mapping[str, str]
    template: Mapping[str, object]
    threads: int
    num_processes: int
    trainable_parameters: int
    total_parameters: int


def write_provenance(path: Path, provenance: Provenance) -> None:
    """Write provenance.json, with versions, git revision and platform gathered now."""
    content = {
        "run_id": provenance.run_id,
        "versions": installed_versions(),
        "git_revision": git_revision(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpu_count": os.cpu_count(),
        "threads": provenance.threads,
        "num_processes": provenance.num_processes,
        "base_identity": provenance.base_identity,
        "data": dict(provenance.data),
        "template": dict(provenance.template),
        "trainable_parameters": provenance.trainable_parameters,
        "total_parameters": provenance.total_parameters,
    }
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def read_provenance(path: Path) -> dict[str, object]:
    """Read provenance.json.

    Raises:
        IntegrityError: Missing or not a JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise IntegrityError(f"{path}: cannot be read ({error})") from error
    if not isinstance(content, dict):
        raise IntegrityError(f"{path}: not a JSON object")
    return content


def installed_versions() -> dict[str, str]:
    """Versions of the packages that shape a run, as installed."""
    versions: dict[str, str] = {}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def git_revision() -> str | None:
    """Revision of the checkout that this code runs from ('-dirty' appended when changed), or None outside one."""
    folder = Path(__file__).resolve().parent
    try:
        result = subprocess.run(
            ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude", "*"],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() or None if result.returncode == 0 else None
