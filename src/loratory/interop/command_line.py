"""Command lines of other tools, taken apart as text: launcher, program, flags. Nothing is executed or expanded."""

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from loratory.errors import ConfigError

MAX_CHARS = 64 * 1024

_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=")
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
_WHOLE = re.compile(r"[-+]?\d+")
_OPERATORS = frozenset({";", "&&", "||", "|", "&", ">", ">>", "<", "(", ")"})
_LAUNCHER_COUNTS = {"nproc_per_node", "num_processes", "num_gpus"}
_PROGRAMS = frozenset({"llamafactory-cli", "llamafactory", "lmf", "axolotl", "trl"})
_WORDS: Mapping[str, object] = {"true": True, "false": False}


@dataclass(frozen=True, slots=True)
class CommandLine:
    """One command, taken apart.

    Attributes:
        program: Last part of the program's name, such as finetune.py.
        words: What follows it without a flag: a sub-command, files.
        arguments: Flag or `key=value` -> value; a flag without a value is true.
        processes: How many processes the launcher starts; 1 without one.
    """

    program: str
    words: tuple[str, ...]
    arguments: Mapping[str, object]
    processes: int


def parse_command(text: str, source: str) -> CommandLine:
    """Take a command line apart, or a shell script that holds exactly one besides settings and comments.

    Args:
        text: The text; lines may be continued with a backslash.
        source: Its name, for errors.

    Raises:
        ConfigError: It is no single plain command, or holds what only a shell could work out.
    """
    if len(text) > MAX_CHARS:
        raise ConfigError(f"{source}: {len(text):,} characters are too many for a command line; allowed {MAX_CHARS:,}")
    commands = []
    for line in re.sub(r"\\\r?\n", " ", text).splitlines():
        tokens = _tokens(line, source)
        if tokens and not _is_setting(tokens):
            commands.append(tokens)
    programs = [tokens for tokens in commands if _program_index(tokens) is not None]
    if len(programs) != 1:
        raise ConfigError(
            f"{source}: holds {len(programs) or 'no'} command{'s' * (len(programs) != 1)} of a known form; expected "
            "one such as `python finetune.py --base_model M …` or `trl sft --config F`"
        )
    tokens = programs[0]
    _refuse_shell(tokens, source)
    index = _program_index(tokens)
    assert index is not None
    arguments, words = parse_flags(tokens[index + 1 :], source)
    return CommandLine(PurePath(tokens[index]).name, tuple(words), arguments, _processes(tokens[:index]))


def scalar(text: str) -> object:
    """The value that a text on a command line stands for: truth value, number, list, or text."""
    stripped = text.strip()
    if stripped.casefold() in _WORDS:
        return _WORDS[stripped.casefold()]
    if stripped in {"None", "null"}:
        return None
    if _WHOLE.fullmatch(stripped):
        return int(stripped)
    if _NUMBER.fullmatch(stripped):
        return float(stripped)
    if stripped.startswith("[") and stripped.endswith("]"):
        return [scalar(part.strip().strip("'\"")) for part in stripped[1:-1].split(",") if part.strip()]
    if stripped.startswith("{") and stripped.endswith("}"):
        try:
            value: object = json.loads(stripped)
        except (ValueError, RecursionError):
            return text
        return value
    return text


def _tokens(line: str, source: str) -> list[str]:
    try:
        return shlex.split(line, comments=True)
    except ValueError as error:
        raise ConfigError(f"{source}: not a shell command: {error}: {line.strip()[:80]}") from None


def _is_setting(tokens: list[str]) -> bool:
    return tokens[0] in {"export", "set", "cd", "source", "module"} or all(map(_ASSIGNMENT.match, tokens))


def _program_index(tokens: list[str]) -> int | None:
    for index, token in enumerate(tokens):
        name = PurePath(token).name
        if name in _PROGRAMS or (name.endswith(".py") and not token.startswith("-")):
            return index
        if token == "-m" and index + 1 < len(tokens) and tokens[index + 1].split(".")[0] in _PROGRAMS:
            return index + 1
    return None


def _refuse_shell(tokens: list[str], source: str) -> None:
    for token in tokens:
        if token in _OPERATORS or re.match(r"\d?>", token):
            raise ConfigError(f"{source}: holds {token!r}; give the one command alone, nothing is executed here")
        if re.search(r"\$[A-Za-z_{(]|`", token):
            raise ConfigError(f"{source}: {token!r} is for a shell to expand; write the value itself")


def _processes(launcher: list[str]) -> int:
    """Processes that a launcher starts: per node, times the nodes."""
    arguments, _ = parse_flags([token for token in launcher if token.startswith("-") or token.isdigit()], "")
    counts = {str(key).replace("-", "_"): value for key, value in arguments.items()}
    per_node = next((value for key, value in counts.items() if key in _LAUNCHER_COUNTS), None)
    if per_node is None:
        # What the launchers themselves go by, where no flag says more.
        settings = dict(token.split("=", 1) for token in launcher if _ASSIGNMENT.match(token))
        per_node = scalar(settings.get("NPROC_PER_NODE", settings.get("WORLD_SIZE", "1")))
    is_total = "num_processes" in counts
    nodes = 1 if is_total else counts.get("nnodes", 1)
    has_counts = isinstance(per_node, int) and isinstance(nodes, int)
    return max(1, per_node * nodes) if has_counts else 1  # type: ignore[operator]


def parse_flags(tokens: Sequence[str], source: str) -> tuple[dict[str, object], list[str]]:
    """Flags (`--key value`, `--key=value`, `key=value`) with their values, and the words before the first of them.

    Raises:
        ConfigError: A flag is given twice.
    """
    arguments: dict[str, object] = {}
    words: list[str] = []
    key: str | None = None
    values: list[str] = []

    def close() -> None:
        if key is not None:
            if key in arguments:
                raise ConfigError(f"{source}: --{key} is given twice; keep one of them")
            read = [scalar(value) for value in values]
            arguments[key] = True if not read else read[0] if len(read) == 1 else read

    for token in tokens:
        if token.startswith("-") and not _NUMBER.fullmatch(token):
            close()
            name, equals, value = token.lstrip("-").partition("=")
            key, values = name.replace("-", "_"), [value] if equals else []
        elif key is None and _ASSIGNMENT.match(token):
            name, _, value = token.partition("=")
            key, values = name, [value]
            close()
            key = None
        elif key is None:
            words.append(token)
        else:
            values.append(token)
    close()
    return arguments, words
