"""Where a base model lies: a local folder, a GGUF file, a pickled pruned model, or a name on the hub.

Local sources are read with the network switched off. What cannot be a base model (a missing path, an adapter's
folder) is refused here, before any library opens it.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig
from transformers.utils.hub import cached_file

from loratory.config import ModelConfig
from loratory.errors import ModelError, suggest
from loratory.model.pruned import open_pruned

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
MAX_CONFIG_BYTES = 4 << 20
PICKLED_SUFFIXES = (".bin", ".pt", ".pth")
PICKLED_NAMES = ("pruned_model.bin", "pytorch_model.bin")

# A config file must not choose code: these keys make transformers fetch or patch attention and kernels.
UNTRUSTED_CONFIG_KEYS = frozenset(
    {
        "attn_implementation",
        "_attn_implementation",
        "_attn_implementation_internal",
        "_attn_implementation_autoset",
        "experts_implementation",
        "_experts_implementation",
        "_experts_implementation_internal",
        "fusion_config",
        "kernel_config",
        "transformers_weights",
    }
)


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A located model.

    Attributes:
        name: What transformers is given: the folder's path or the hub name.
        gguf_file: Name of the GGUF file inside it, or None.
        revision: Hub revision, or None.
        is_local: Whether everything is on this disk; then nothing is fetched.
        pickled_file: The pickled model that the folder `name` was converted from, or None.
    """

    name: str
    gguf_file: str | None
    revision: str | None
    is_local: bool
    pickled_file: str | None = None

    @property
    def label(self) -> str:
        """The source as a user would name it."""
        if self.pickled_file is not None:
            return self.pickled_file
        if self.gguf_file is None:
            return self.name
        return str(Path(self.name) / self.gguf_file) if self.is_local else f"{self.name}/{self.gguf_file}"


def locate_model(section: ModelConfig) -> ModelSource:
    """Find the base model that the section names.

    Raises:
        ModelError: A path that does not exist, a file of another kind, a folder without config.json or with an
            adapter in it, or a name that no hub accepts.
        UnsafeError: A pickled model that is more than a model; so are damaged ones an IntegrityError.
    """
    return _locate("model.model_name_or_path", section.model_name_or_path, section.gguf_file, section.revision)


def locate_tokenizer(section: ModelConfig) -> ModelSource:
    """Find the tokenizer: its own source when the section names one, else the model's.

    Raises:
        ModelError: As for `locate_model`, except that a tokenizer folder needs no config.json.
    """
    if section.tokenizer_name_or_path is None:
        return locate_model(section)
    return _locate("model.tokenizer_name_or_path", section.tokenizer_name_or_path, None, None, is_model=False)


def read_config_dict(source: ModelSource) -> dict[str, Any]:
    """Read the model's configuration as plain values, without the keys that choose code.

    Raises:
        ModelError: It cannot be found or is not a JSON object.
    """
    try:
        found, _ = PreTrainedConfig.get_config_dict(
            source.name, gguf_file=source.gguf_file, revision=source.revision, local_files_only=source.is_local
        )
    except (OSError, ValueError, KeyError) as fault:
        raise ModelError(_unreachable(source, fault)) from fault
    if not found.get("model_type"):
        raise ModelError(
            f"{source.label}: its config.json names no model_type, so the architecture is unknown; "
            "use a folder written by transformers' save_pretrained"
        )
    return strip_untrusted(found)


def strip_untrusted(value: dict[str, Any]) -> dict[str, Any]:
    """Drop the keys of `UNTRUSTED_CONFIG_KEYS` at every depth."""
    return {
        key: strip_untrusted(inner) if isinstance(inner, dict) else inner
        for key, inner in value.items()
        if key not in UNTRUSTED_CONFIG_KEYS
    }


def refuse_hub_adapter(source: ModelSource) -> None:
    """Refuse a hub repository that holds an adapter; a local folder was checked when it was located."""
    if source.is_local:
        return
    found = cached_file(
        source.name,
        "adapter_config.json",
        revision=source.revision,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        _raise_exceptions_for_gated_repo=False,
    )
    if found is not None:
        raise ModelError(_is_an_adapter("model.model_name_or_path", source.name, None))


def snapshot_folder(source: ModelSource) -> Path:
    """The folder on disk that holds the model's files; for a hub name the revision's folder in the hub cache."""
    if source.is_local:
        return Path(source.name)
    marker = cached_file(
        source.name, source.gguf_file or "config.json", revision=source.revision, local_files_only=True
    )
    assert marker is not None
    return Path(marker).parent


def _locate(key: str, given: str, gguf_file: str | None, revision: str | None, *, is_model: bool = True) -> ModelSource:
    path = Path(given).expanduser()
    if path.is_file():
        return _locate_file(key, path, gguf_file)
    if path.is_dir() and is_model and (pickled := _pickled_in(path)) is not None:
        return _locate_file(key, pickled, gguf_file)
    if path.is_dir():
        _check_folder(key, path, gguf_file, is_model=is_model)
        return ModelSource(str(path), gguf_file, None, is_local=True)
    if _looks_like_path(given) or not HUB_NAME.fullmatch(given):
        raise ModelError(f"{key}: {given!r} does not exist.{_nearest_path(path)}")
    return ModelSource(given, gguf_file, revision, is_local=False)


def _pickled_in(folder: Path) -> Path | None:
    """A pickled model in a folder that is no model folder of transformers."""
    if (folder / "config.json").is_file() or (folder / "adapter_config.json").is_file():
        return None
    return next((folder / name for name in PICKLED_NAMES if (folder / name).is_file()), None)


def _locate_file(key: str, path: Path, gguf_file: str | None) -> ModelSource:
    if path.suffix.lower() in PICKLED_SUFFIXES:
        return ModelSource(str(open_pruned(path)), None, None, is_local=True, pickled_file=str(path))
    if path.suffix.lower() != ".gguf":
        raise ModelError(
            f"{key}: {str(path)!r} is a file of kind {path.suffix or 'unknown'}; allowed are a folder with config.json "
            f"and safetensors, a .gguf file, a pickled pruned model ({', '.join(PICKLED_SUFFIXES)}), or a hub name"
        )
    if gguf_file is not None and gguf_file != path.name:
        raise ModelError(f"{key} is the file {path.name!r} but model.gguf_file is {gguf_file!r}; give one of them")
    return ModelSource(str(path.parent), path.name, None, is_local=True)


def _check_folder(key: str, folder: Path, gguf_file: str | None, *, is_model: bool) -> None:
    if gguf_file is not None:
        if Path(gguf_file).name != gguf_file or not (folder / gguf_file).is_file():
            have = sorted(path.name for path in folder.glob("*.gguf"))
            raise ModelError(
                f"model.gguf_file: no file {gguf_file!r} in {folder}; it holds "
                f"{', '.join(have) or 'no GGUF file'}.{suggest(gguf_file, have)}"
            )
        return
    if not is_model:
        return
    if (folder / "adapter_config.json").is_file():
        raise ModelError(_is_an_adapter(key, str(folder), _base_named_by(folder)))
    if not (folder / "config.json").is_file():
        gguf = sorted(path.name for path in folder.glob("*.gguf"))
        hint = f"; it holds GGUF files: set model.gguf_file to one of {', '.join(gguf)}" if gguf else ""
        raise ModelError(f"{key}: folder {str(folder)!r} has no config.json, so it is not a model folder{hint}")
    if (folder / "config.json").stat().st_size > MAX_CONFIG_BYTES:
        raise ModelError(f"{folder / 'config.json'} is larger than {MAX_CONFIG_BYTES >> 20} MiB; not a model's config")


def _is_an_adapter(key: str, place: str, base: str | None) -> str:
    named = f" (it names {base!r})" if base else ""
    return (
        f"{key}: {place!r} holds adapter_config.json: it is an adapter, not a base model. "
        f"Set model.model_name_or_path to the adapter's base{named} and adapter.path to {place!r}"
    )


def _base_named_by(folder: Path) -> str | None:
    try:
        found = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    base = found.get("base_model_name_or_path") if isinstance(found, dict) else None
    return base if isinstance(base, str) else None


def _looks_like_path(given: str) -> bool:
    return given.startswith((".", "/", "~")) or given.count("/") > 1 or "\\" in given or given.lower().endswith(".gguf")


def _nearest_path(path: Path) -> str:
    parent = path.parent
    if not parent.is_dir():
        return f" Its parent folder {str(parent)!r} does not exist either." if str(parent) not in ("", ".") else ""
    siblings = sorted(entry.name for entry in parent.iterdir())
    near = suggest(path.name, siblings)
    return near if near else f" In {str(parent)!r} there is {', '.join(siblings[:8]) or 'nothing'}."


def _unreachable(source: ModelSource, fault: Exception) -> str:
    if source.is_local:
        return f"{source.label}: its configuration cannot be read: {first_line(fault)}"
    return (
        f"model {source.name!r} is no local path and could not be fetched as a hub name: {first_line(fault)} "
        f"Check the name, the connection (or HF_HUB_OFFLINE), or give a local folder.{_nearest_path(Path(source.name))}"
    )


def first_line(fault: BaseException) -> str:
    """The first line of an error of another library, for quoting in ours."""
    text = str(fault).strip().splitlines()
    return text[0] if text else type(fault).__name__
