"""The tools whose files are read, by name; and which of them a set of settings belongs to."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from loratory.errors import ConfigError, suggest
from loratory.interop.alpaca_lora import ALPACA_LORA, LLM_PRUNER
from loratory.interop.axolotl import AXOLOTL
from loratory.interop.draft import Tool
from loratory.interop.llama_factory import LLAMA_FACTORY
from loratory.interop.peft_adapter import PEFT_ADAPTER
from loratory.interop.peft_sft import PEFT_SFT
from loratory.interop.recovery_command import FINETUNE_LORA
from loratory.interop.trl import TRL_DPO, TRL_GRPO, TRL_KTO, TRL_REWARD, TRL_SFT

_ALL = (
    PEFT_ADAPTER,
    LLAMA_FACTORY,
    ALPACA_LORA,
    LLM_PRUNER,
    FINETUNE_LORA,
    PEFT_SFT,
    AXOLOTL,
    TRL_SFT,
    TRL_DPO,
    TRL_KTO,
    TRL_REWARD,
    TRL_GRPO,
)
TOOLS: Mapping[str, Tool] = MappingProxyType({tool.name: tool for tool in _ALL})


def find_tool(name: str) -> Tool:
    """The tool of a name as `--as` takes it.

    Raises:
        ConfigError: There is none; names the nearest.
    """
    if name not in TOOLS:
        raise ConfigError(f"--as: {name!r} is unknown.{suggest(name, list(TOOLS))} Names: {', '.join(TOOLS)}")
    return TOOLS[name]


def program_tool(program: str, words: Iterable[str]) -> Tool | None:
    """The tool that a program's name tells; None where the name is no telling one."""
    if program.split(".")[0] == "trl":
        command = next(iter(words), "")
        return TOOLS.get(f"trl-{command}")
    name = program if program.endswith(".py") else program.split(".")[0]
    found = [tool for tool in _ALL if name in tool.programs]
    # Anything may be called train.py.
    return found[0] if len(found) == 1 and name != "train.py" else None


def recognise(keys: Iterable[str], source: str) -> Tool:
    """The tool that knows most of these settings.

    Args:
        keys: Names of settings.
        source: Where they stand, for errors.

    Raises:
        ConfigError: No tool knows any, or several know equally many; names them.
    """
    names = set(keys)
    known = {tool.name: len(names & tool.rules.keys()) for tool in _ALL}
    most = max(known.values())
    best = [name for name, count in known.items() if count == most]
    if most == 0:
        raise ConfigError(
            f"{source}: no known tool has any of the settings {', '.join(sorted(names)[:6])}; "
            f"say whose file it is with --as NAME: {', '.join(TOOLS)}"
        )
    if len(best) > 1:
        raise ConfigError(
            f"{source}: could be of {' or '.join(best)} ({most} of {len(names)} settings known to each); say which "
            f"with --as {best[0]}"
        )
    return TOOLS[best[0]]
