"""A configuration that grows while another tool's settings are read, and what had to be said about them.

Every setting of the other tool ends up in exactly one place: a value here, or a finding. Settings that the tool takes
by default are values too, but only what the user wrote is worth a finding.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, Literal

from loratory.errors import suggest

Kind = Literal["not honoured", "approximated", "ignored", "unknown"]
KINDS: tuple[Kind, ...] = ("not honoured", "unknown", "approximated", "ignored")

Rule = Callable[["Draft", str, Any], None]


@dataclass(frozen=True, slots=True)
class Finding:
    """What became of a setting that is not simply a value here.

    Attributes:
        kind: 'not honoured' (the run will differ), 'approximated' (nearly the same), 'unknown' (no setting of that
            tool) or 'ignored' (no influence on the result).
        key: The setting's name in the other tool.
        value: What it says; None where the tool does something without a setting.
        reason: Why, and what to do.
    """

    kind: Kind
    key: str
    value: object
    reason: str


@dataclass
class Draft:
    """Values in our sections, not yet validated, and the findings.

    Attributes:
        fields: Our dotted keys, each with the words that it may hold (none where it is not a closed list).
        given: What the user wrote, under the other tool's names.
        processes: Processes that train together there.
        values: Section -> field (or inner section) -> value.
        findings: In the order in which they were made.
    """

    fields: Mapping[str, tuple[str, ...]]
    given: Mapping[str, object]
    processes: int = 1
    values: dict[str, dict[str, Any]] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def put(self, key: str, value: object, *, origin: str) -> bool:
        """Set one of our fields; whether we have such a field and value. If not, that is a finding about `origin`."""
        if key not in self.fields:
            self.remark("not honoured", origin, f"there is no {key} here", value=value)
            return False
        words = self.fields[key]
        if words and isinstance(value, str) and value not in words:
            self.remark("not honoured", origin, f"{key} cannot be {value!r}; it is one of {', '.join(words)}")
            return False
        *sections, name = key.split(".")
        here: dict[str, Any] = self.values
        for section in sections:
            here = here.setdefault(section, {})
        here[name] = value
        return True

    def get(self, key: str) -> Any:
        """What was put for one of our fields; None if nothing was."""
        here: Any = self.values
        for step in key.split("."):
            here = here.get(step, {})
        return None if here == {} else here

    def report(self, kind: Kind, key: str, reason: str) -> None:
        """A finding about a setting, if the user wrote it."""
        if self.given.get(key) is not None:
            self.findings.append(Finding(kind, key, self.given[key], reason))

    def remark(self, kind: Kind, key: str, reason: str, *, value: object = None) -> None:
        """A finding that holds whether or not the user wrote anything."""
        self.findings.append(Finding(kind, key, self.given.get(key, value), reason))


@dataclass(frozen=True, slots=True)
class Tool:
    """Another tool's settings.

    Attributes:
        name: As the user says it: `--as NAME`.
        title: What it is.
        rules: The meaning of each of its settings.
        defaults: What it takes where a setting is left out.
        finish: What several settings mean together; called after the rules.
        programs: Program names that tell the tool from its command line.
    """

    name: str
    title: str
    rules: Mapping[str, Rule]
    defaults: Mapping[str, object]
    finish: Callable[[Draft, Mapping[str, Any]], None]
    programs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Reading:
    """Another tool's settings, read.

    Attributes:
        tool: Its name.
        values: Section -> field -> value, not yet validated.
        findings: What is not simply a value here.
        defaults: Settings of the tool that the user left out and that became values.
    """

    tool: str
    values: Mapping[str, Mapping[str, Any]]
    findings: tuple[Finding, ...]
    defaults: Mapping[str, object]


def read_settings(
    tool: Tool, given: Mapping[str, object], *, fields: Mapping[str, tuple[str, ...]], processes: int = 1
) -> Reading:
    """Read settings by a tool's rules; where one is left out or null, the tool's own default is taken.

    Args:
        tool: Whose settings these are.
        given: What the user wrote.
        fields: Our dotted keys with the words that they may hold.
        processes: Processes that train together there.
    """
    draft = Draft(fields, given, processes)
    settings = {**tool.defaults, **{key: value for key, value in given.items() if value is not None}}
    for key, value in settings.items():
        rule = tool.rules.get(key)
        if rule is not None:
            rule(draft, key, value)
        else:
            near = suggest(key, list(tool.rules))
            draft.report("unknown", key, f"{tool.title} has no such setting.{near}")
    tool.finish(draft, settings)
    defaults = {key: value for key, value in tool.defaults.items() if given.get(key) is None}
    return Reading(tool.name, draft.values, tuple(draft.findings), defaults)


def put_output_folder(draft: Draft, key: str, value: object) -> None:
    """A folder for results becomes the run `<output_dir>/<name>`."""
    folder = PurePath(str(value))
    name = folder.name
    is_name = bool(name) and name[0].isalnum() and len(name) <= 100 and all(c.isalnum() or c in "._-" for c in name)
    if is_name and name.isascii():
        draft.put("run.output_dir", str(folder.parent), origin=key)
        draft.put("run.name", name, origin=key)
    else:
        draft.put("run.output_dir", str(folder), origin=key)
        draft.report("approximated", key, "results go to <output_dir>/run, as the folder's name cannot name a run")
