"""The command line that serves the same models with vLLM, where it is installed."""

import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from loratory.adapter.manifest import CONFIG_FILE, TENSORS_FILE
from loratory.adapter.peft_file import read_lora_file
from loratory.adapter.shards import read_header
from loratory.adapter.vllm_limits import obstacles, served_rank
from loratory.errors import ConfigError
from loratory.infer.server.served import ServedSource

KEY_VARIABLE = "VLLM_API_KEY"


def require_vllm() -> None:
    """Raise unless vLLM is installed.

    Raises:
        ConfigError: It is not.
    """
    if find_spec("vllm") is None:
        raise ConfigError("--engine vllm: vLLM is not installed here; install it, or leave --engine out")


def vllm_command(
    executable: str,
    base: str,
    sources: Sequence[ServedSource],
    *,
    host: str,
    port: int,
    max_context: int | None,
    force_template: bool = False,
) -> list[str]:
    """The command; the key goes into the environment (`KEY_VARIABLE`), because everybody can read command lines.

    Args:
        executable: The Python interpreter that has vLLM.
        base: Folder or hub name of the base.
        sources: What to serve.
        host: Where to listen.
        port: The port.
        max_context: Most tokens of prompt and answer.
        force_template: Go on when vLLM would use another template.

    Raises:
        ConfigError: A template is not the tokenizer's own, the only one that vLLM knows; or vLLM does not serve an
            adapter.
    """
    foreign = [source for source in sources if source.adapter_dir is not None and not _is_tokenizers_own(source)]
    if foreign and not force_template:
        names = ", ".join(f"{source.name} ({source.template})" for source in foreign)
        raise ConfigError(
            f"--engine vllm: it renders chats with the tokenizer's own chat template, and these were trained with "
            f"another: {names}. Serve them without --engine vllm, or give --force-template and use only /v1/completions"
        )
    own = [source.name for source in sources if source.adapter_dir is None]
    command = [executable, "-m", "vllm.entrypoints.openai.api_server", "--model", base, "--host", host]
    command += ["--port", str(port), "--served-model-name", *(own or ["base"])]
    adapters = [(source.name, source.adapter_dir) for source in sources if source.adapter_dir is not None]
    if adapters:
        rank = served_rank(max(_rank(folder) for _, folder in adapters))
        command += ["--enable-lora", "--max-loras", str(len(adapters)), "--max-lora-rank", str(rank)]
        command += ["--lora-modules", *(f"{name}={folder}" for name, folder in adapters)]
    if max_context is not None:
        command += ["--max-model-len", str(max_context)]
    return command


def _is_tokenizers_own(source: ServedSource) -> bool:
    name = source.template if source.contract is None else str(source.contract.get("name", source.template))
    return name in ("chat", "auto")


def _rank(folder: Path) -> int:
    file = read_lora_file(folder)
    found = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    faults = obstacles(found, sorted(read_header(folder / TENSORS_FILE)))
    if faults:
        raise ConfigError(f"--engine vllm: it cannot serve {folder}: {'; '.join(faults)}. Merge it first")
    return file.rank
