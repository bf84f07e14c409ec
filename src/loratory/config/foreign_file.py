"""Other tools' files and command lines read as a `RunConfig`, with an account of every setting that is not simply one.

What the settings mean is known to `loratory.interop`; here files are opened and the result is validated.
"""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from loratory.config.document import read_document
from loratory.config.fields import config_fields
from loratory.config.method_catalogue import catalogue, options_of
from loratory.config.reader import build_config, config_to_yaml
from loratory.config.root import RunConfig
from loratory.config.settings_file import as_mapping, read_json, settings_text, show_value
from loratory.errors import ConfigError, suggest
from loratory.interop.catalogue import find_tool, program_tool, recognise
from loratory.interop.command_line import CommandLine, parse_command, parse_flags
from loratory.interop.draft import KINDS, Finding, Reading, Tool, read_settings
from loratory.interop.peft_adapter import PEFT_ADAPTER, is_adapter_file

_REGISTER_MARKS = frozenset({"file_name", "hf_hub_url", "ms_hub_url", "om_hub_url", "script_url", "cloud_file_name"})


@dataclass(frozen=True, slots=True)
class ForeignRun:
    """Another tool's run as ours.

    Attributes:
        config: The validated configuration.
        tool: Whose it was.
        sources: What was read.
        findings: Every setting that is unknown, ignored, approximated or not honoured, the gravest first.
        defaults: Settings of the other tool that were left out and stand here as values.
    """

    config: RunConfig
    tool: str
    sources: tuple[str, ...]
    findings: tuple[Finding, ...]
    defaults: Mapping[str, object]

    def to_yaml(self) -> str:
        """Our YAML, with the findings as comments at its head."""
        lines = [f"Read from {', '.join(self.sources)} as settings of {self.tool}."]
        for kind in KINDS:
            found = [finding for finding in self.findings if finding.kind == kind]
            if found:
                lines.append(_TITLES[kind])
            lines += [f"  {describe_setting(finding)}: {finding.reason}" for finding in found]
        if self.defaults:
            lines.append(f"Left out there, and taken from the defaults of {self.tool}:")
            pairs = [f"{key}={show_value(value)}" for key, value in self.defaults.items()]
            lines += [f"  {line}" for line in textwrap.wrap(", ".join(pairs), 110, break_long_words=False)]
        return "".join(f"# {_printable(line)}\n" for line in lines) + "\n" + config_to_yaml(self.config)


_TITLES = {
    "not honoured": "Not honoured: the run will differ.",
    "approximated": "Approximated:",
    "unknown": "Unknown:",
    "ignored": "Ignored, without influence on the result:",
}


def describe_setting(finding: Finding) -> str:
    """A finding's setting as `name=value`, or its name alone."""
    return finding.key if finding.value is None else f"{finding.key}={show_value(finding.value)}"


def read_foreign_run(
    paths: Sequence[Path],
    *,
    tool: str | None = None,
    command: str | None = None,
    processes: int | None = None,
    overrides: Sequence[str] = (),
) -> ForeignRun:
    """Read other tools' files and at most one command line; later settings go before earlier ones.

    Args:
        paths: YAML or JSON files, a `dataset_info.json`, a PEFT adapter JSON, or text files with one command line.
        tool: Whose they are; None recognises it.
        command: A command line as text; nothing is executed.
        processes: Processes that train together; None takes what the command line's launcher says, else 1.
        overrides: Assignments to our own fields.

    Raises:
        ConfigError: A file cannot be read or told, or the result is no valid configuration.
        UnsafeError: A file would build objects or expand without bounds.
    """
    work = _Work(find_tool(tool) if tool is not None else None)
    for path in paths:
        work.read_file(path)
    if command is not None:
        work.read_command(parse_command(command, "--command"), "--command", Path())
    return work.finish(processes, overrides)


def read_foreign_flags(
    tokens: Sequence[str], *, tool: str, source: str, processes: int, overrides: Sequence[str] = ()
) -> ForeignRun:
    """Read the flags of another tool's command.

    Args:
        tokens: Flags and values; or one JSON file with them. `--adapter_config F` takes the adapter from a PEFT JSON.
        tool: Whose flags these are.
        source: What takes them, for messages.
        processes: Processes that train together.
        overrides: Assignments to our own fields.

    Raises:
        ConfigError: A flag is given twice, a file cannot be read, or the result is no valid configuration.
    """
    arguments, words = parse_flags(tokens, source)
    work = _Work(find_tool(tool))
    adapter = arguments.pop("adapter_config", None)
    return work.read_flags(arguments, words, adapter, source).finish(processes, overrides)


def read_adapter_json(path: Path) -> dict[str, object]:
    """Read a PEFT adapter configuration.

    Raises:
        ConfigError: The file is missing, not JSON, or no adapter configuration.
    """
    document = read_json(path)
    if not is_adapter_file(document):
        raise ConfigError(f"{path}: no PEFT adapter configuration: it has no peft_type")
    return document


class _Work:
    """What the files have said so far."""

    def __init__(self, tool: Tool | None) -> None:
        self._tool = tool
        self._sources: list[str] = []
        self._given: dict[str, object] = {}
        self._adapter: Mapping[str, object] | None = None
        self._register: tuple[Path, Mapping[str, object]] | None = None
        self._processes = 1

    def read_file(self, path: Path) -> None:
        self._sources.append(str(path))
        if path.suffix in {".yaml", ".yml"}:
            self._given.update(as_mapping(read_document(path), path))
        elif path.suffix == ".json":
            document = read_json(path)
            if _is_register(document):
                self._register = (path, document)
            elif is_adapter_file(document):
                self._adapter = document
            else:
                self._given.update(document)
        else:
            self.read_command(parse_command(settings_text(path), str(path)), str(path), path.parent)

    def read_command(self, line: CommandLine, source: str, folder: Path) -> None:
        if source == "--command":
            self._sources.append(f"the command line of {line.program}")
        self._tool = self._tool or program_tool(line.program, line.words)
        arguments = dict(line.arguments)
        named = [arguments.pop("config", None)] if isinstance(arguments.get("config"), str) else []
        for word in [*(word for word in line.words if Path(word).suffix in {".yaml", ".yml", ".json"}), *named]:
            path = Path(str(word))
            self.read_file(path if path.is_file() else folder / path)
        self._given.update(arguments)
        self._processes = line.processes

    def read_flags(
        self, arguments: Mapping[str, object], words: Sequence[str], adapter: object, source: str
    ) -> "_Work":
        stray = [word for word in words if not word.endswith(".json")]
        if stray:
            raise ConfigError(f"{source}: {stray[0]!r} belongs to no flag; flags are written as --name value")
        for word in words:
            self.read_file(Path(word))
        if adapter is not None:
            self._adapter = read_adapter_json(Path(str(adapter)))
        self._sources.append(source)
        self._given.update(arguments)
        return self

    def finish(self, processes: int | None, overrides: Sequence[str]) -> ForeignRun:
        fields = _fields()
        source = ", ".join(self._sources) or "nothing"
        if not self._given and self._adapter is None:
            raise ConfigError(f"{source}: holds no settings; give another tool's run file or command line")
        readings = []
        if self._given:
            tool = self._tool or recognise(self._given, source)
            given = _without_negations(self._given, tool)
            readings.append(read_settings(tool, given, fields=fields, processes=processes or self._processes))
        if self._adapter is not None:
            readings.append(read_settings(PEFT_ADAPTER, self._adapter, fields=fields))
        return self._joined(readings, overrides)

    def _joined(self, readings: Sequence[Reading], overrides: Sequence[str]) -> ForeignRun:
        """Readings as one run; an adapter file goes before what a run file says of the adapter and the base."""
        values: dict[str, dict[str, object]] = {}
        for reading in readings:
            for section, content in reading.values.items():
                known = values.setdefault(section, {})
                values[section] = dict(content) if section == "adapter" else {**content, **known}
        findings = [finding for reading in readings for finding in reading.findings]
        findings += self._register_findings(values)
        for key, what in (("model.model_name_or_path", "base model"), ("data.train", "training rows")):
            section, name = key.split(".")
            if not values.setdefault(section, {}).get(name):
                values[section][name] = ""
                findings.append(Finding("not honoured", key, None, f"the settings name no {what}; fill it in"))
        return ForeignRun(
            config=build_config(values, overrides),
            tool=" and ".join(reading.tool for reading in readings),
            sources=tuple(self._sources),
            findings=tuple(sorted(findings, key=lambda finding: KINDS.index(finding.kind))),
            defaults={key: value for reading in readings for key, value in reading.defaults.items()},
        )

    def _register_findings(self, values: dict[str, dict[str, object]]) -> list[Finding]:
        if self._register is None:
            return []
        path, entries = self._register
        data = values.setdefault("data", {})
        data["dataset_dir"] = str(path.parent)
        named = [name for key in ("train", "validation") for name in _names(data.get(key))]
        return [
            Finding("not honoured", "dataset", name, f"{path} has no such entry.{suggest(name, list(entries))}")
            for name in named
            if name not in entries
        ]


def _fields() -> dict[str, tuple[str, ...]]:
    """Our dotted keys with the words that they may hold; below `adapter.options` those of each method."""
    options = (f"adapter.options.{name}.{option}" for name in catalogue()["methods"] for option in options_of(name))
    return {key: _words(field.annotation) for key, field in config_fields().items()} | dict.fromkeys(options, ())


def _words(annotation: Any) -> tuple[str, ...]:
    """The words that a field may hold where these are a closed list; else none."""
    kinds = [kind for kind in get_args(annotation) if kind is not type(None)]
    if get_origin(annotation) is Literal:
        return tuple(kinds)
    return _words(kinds[0]) if len(kinds) == 1 and get_origin(kinds[0]) is Literal else ()


def _names(value: object) -> list[str]:
    return [value] if isinstance(value, str) else [str(each) for each in value] if isinstance(value, list) else []


def _without_negations(given: Mapping[str, object], tool: Tool) -> dict[str, object]:
    """`--no_packing` as `packing: false`, where the tool has a setting of that name and none of the whole."""
    result = {}
    for key, value in given.items():
        positive = key.removeprefix("no_")
        is_negation = key not in tool.rules and positive != key and positive in tool.rules and value is True
        result[positive if is_negation else key] = False if is_negation else value
    return result


def _is_register(document: Mapping[str, object]) -> bool:
    entries = list(document.values())
    return bool(entries) and all(isinstance(entry, dict) and _REGISTER_MARKS & entry.keys() for entry in entries)


def _printable(line: str) -> str:
    """A line break of any kind inside a value must not end its comment."""
    return "".join(character if character.isprintable() else " " for character in line)
