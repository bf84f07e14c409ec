"""What vLLM needs to serve a model: the command, and an adapter folder with a configuration that old readers know.

What vLLM would refuse, or take and compute otherwise (it scales every layer by one alpha over one rank), is refused
here, with the reason.
"""

import json
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loratory.adapter.files import read_adapter
from loratory.adapter.manifest import CONFIG_FILE, TENSORS_FILE
from loratory.adapter.vllm_limits import OLD_LIMIT, obstacles, served_rank
from loratory.errors import AdapterError
from loratory.run.commit import publish_directory

TEMPLATE_FILE = "chat_template.jinja"
_KEPT = ("peft_type", "task_type", "base_model_name_or_path", "r", "lora_alpha", "lora_dropout", "bias")
_MERGE = "Merge it instead (loratory adapter merge) and serve the merged folder"


@dataclass(frozen=True, slots=True)
class VllmExport:
    """What was prepared.

    Attributes:
        command: The server's command line.
        notes: What a reader must know.
    """

    command: str
    notes: tuple[str, ...]


def export_vllm_adapter(
    adapter_dir: Path,
    output: Path,
    *,
    base: str,
    name: str,
    chat_template: str | None = None,
    max_model_len: int | None = None,
) -> VllmExport:
    """Write an adapter folder for vLLM and older PEFT releases, and the command that serves it.

    Args:
        adapter_dir: The adapter.
        output: Folder to publish; must not exist.
        base: The base model, as vLLM is to be given it.
        name: Name that clients ask for.
        chat_template: Jinja to serve with, when it is not the base's own.
        max_model_len: Longest conversation in tokens.

    Raises:
        AdapterError: vLLM cannot serve the adapter; all reasons are listed.
        RunError: `output` exists.
    """
    files = read_adapter(adapter_dir)
    found = json.loads((adapter_dir / CONFIG_FILE).read_text(encoding="utf-8"))
    faults = obstacles(found, sorted(files.tensors))
    if faults:
        raise AdapterError(f"vLLM cannot serve {adapter_dir}: {'; '.join(faults)}. {_MERGE}")

    def write(stage: Path) -> None:
        text = json.dumps(minimal_config(found, base=base), indent=2, ensure_ascii=False)
        (stage / CONFIG_FILE).write_text(text + "\n", encoding="utf-8")
        shutil.copyfile(adapter_dir / TENSORS_FILE, stage / TENSORS_FILE)
        if chat_template is not None:
            (stage / TEMPLATE_FILE).write_text(chat_template, encoding="utf-8")

    publish_directory(output, write)
    rank = int(found["r"])
    notes = (f"rank {rank} needs a vLLM of 2025 or later; older ones end at {OLD_LIMIT}",) if rank > OLD_LIMIT else ()
    options = ["--enable-lora", "--lora-modules", f"{name}={output}", "--max-lora-rank", str(served_rank(rank))]
    if chat_template is not None:
        options += ["--chat-template", str(output / TEMPLATE_FILE)]
    return VllmExport(vllm_command(base, options=options, max_model_len=max_model_len), notes)


def vllm_command(
    model: str, *, name: str | None = None, options: Sequence[str] = (), max_model_len: int | None = None
) -> str:
    """The command line of vLLM's OpenAI server, on this machine only."""
    words = ["vllm", "serve", model, "--host", "127.0.0.1"]
    if name is not None:
        words += ["--served-model-name", name]
    words += options
    if max_model_len is not None:
        words += ["--max-model-len", str(max_model_len)]
    return shlex.join(words)


def minimal_config(found: Mapping[str, Any], *, base: str) -> dict[str, Any]:
    """An adapter's configuration with the keys that every PEFT release knows."""
    kept = {key: found.get(key) for key in _KEPT} | {"base_model_name_or_path": base, "inference_mode": True}
    targets = found["target_modules"]
    kept["target_modules"] = targets if isinstance(targets, str) else sorted(targets)
    kept |= {"fan_in_fan_out": bool(found.get("fan_in_fan_out")), "modules_to_save": None}
    if found.get("use_rslora"):
        kept["use_rslora"] = True
    return kept
