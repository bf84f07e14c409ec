"""Strict YAML: text in, plain values out, and back.

Stricter than `yaml.safe_load`: a repeated key is an error, aliases cannot blow a small file up, and a scalar is a
number only where a reader would expect it (`1e-4` is a number; `010`, `12:30` and `2024-01-01` stay text).
Nothing here can build an object other than dict, list, str, int, float, bool and None.
"""

import re
from pathlib import Path

import yaml

from loratory.errors import ConfigError, UnsafeError

MAX_BYTES = 256 * 1024
MAX_DEPTH = 32
MAX_NODES = 20_000

_TAG = "tag:yaml.org,2002:"
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9_]*)$")
_FLOAT = re.compile(
    r"[-+]?(?:(?:0|[1-9][0-9_]*)\.[0-9_]*(?:[eE][-+]?[0-9]+)?"
    r"|\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?"
    r"|(?:0|[1-9][0-9_]*)[eE][-+]?[0-9]+"
    r"|\.(?:inf|Inf|INF))$|\.(?:nan|NaN|NAN)$"
)


class _Loader(yaml.SafeLoader):
    """SafeLoader with the number forms above and without dates."""


class _Dumper(yaml.SafeDumper):
    """SafeDumper that also quotes text which our loader, or the usual one, would read as a number."""


def _resolvers() -> dict[str, list[tuple[str, re.Pattern[str]]]]:
    replaced = {f"{_TAG}{kind}" for kind in ("int", "float", "timestamp")}
    table = {
        first: [(tag, pattern) for tag, pattern in entries if tag not in replaced]
        for first, entries in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    for first in "+-0123456789":
        table.setdefault(first, []).append((f"{_TAG}int", _INT))
    for first in "+-.0123456789":
        table.setdefault(first, []).append((f"{_TAG}float", _FLOAT))
    return table


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    # The emitter folds lines at these three, and only its double quotes escape them.
    style = '"' if any(mark in text for mark in "\x85\u2028\u2029") else None
    return dumper.represent_scalar(f"{_TAG}str", text, style=style)


_Dumper.add_representer(str, _represent_text)
_Loader.yaml_implicit_resolvers = _resolvers()
_Dumper.yaml_implicit_resolvers = {
    first: [*yaml.SafeDumper.yaml_implicit_resolvers.get(first, []), *entries]
    for first, entries in _Loader.yaml_implicit_resolvers.items()
}


def read_document(path: Path) -> object:
    """Return the value of a YAML file.

    Raises:
        ConfigError: The file is missing, too large, not UTF-8 text or not valid YAML.
        UnsafeError: The file asks for a Python object or expands without bounds.
    """
    text = read_text(path, what="a configuration", hint="; expected a YAML file")
    return parse_document(text, str(path))


def read_text(path: Path, *, what: str, hint: str = "", max_bytes: int | None = MAX_BYTES) -> str:
    """The text of a small file.

    Args:
        path: The file.
        what: What it should hold, for the message about its size.
        hint: Added to the message that there is no such file.
        max_bytes: Its largest size; None for any.

    Raises:
        ConfigError: It is missing, too large, or not UTF-8 text.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: {'not a regular file' if path.exists() else 'no such file'}{hint}")
    if max_bytes is not None and path.stat().st_size > max_bytes:
        raise ConfigError(f"{path}: {path.stat().st_size:,} bytes is too large for {what}; allowed {max_bytes:,}")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text (byte {error.start}); save the file as UTF-8") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error


def parse_document(text: str, source: str) -> object:
    """Return the value of YAML text; `source` names it in messages. Raises as `read_document`."""
    try:
        _check_events(text, source)
        return _construct(text, source)
    except yaml.constructor.ConstructorError as error:
        problem = str(error.problem)
        if "python/" in problem:
            raise UnsafeError(
                f"{_place(source, error)}: refused a tag that builds Python objects: {problem}"
            ) from error
        raise ConfigError(f"{_place(source, error)}: {problem}; expected plain YAML values") from error
    except yaml.MarkedYAMLError as error:
        reason = ", ".join(part for part in (error.context, error.problem) if part)
        raise ConfigError(f"{_place(source, error)}: not valid YAML: {reason}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{source}: not valid YAML: {' '.join(str(error).split())}") from error


def dump_document(value: object) -> str:
    """Return YAML text that `parse_document` reads back to the same value, keys in the order given."""
    text = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100, default_flow_style=False)
    return str(text)


def _construct(text: str, source: str) -> object:
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        faults = _duplicate_keys(node, source)
        if faults:
            raise ConfigError(faults)
        value: object = loader.construct_document(node)
        return value
    finally:
        loader.dispose()


def _place(source: str, error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    return f"{source}:{mark.line + 1}" if mark is not None else source


def _check_events(text: str, source: str) -> None:
    """Refuse text whose nesting or expanded size is out of proportion, before anything recursive sees it."""
    depth = nodes = 0
    open_anchors: list[str | None] = []
    starts: list[int] = []
    sizes: dict[str, int] = {}
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.AliasEvent):
            if event.anchor in open_anchors:
                raise UnsafeError(f"{source}: alias *{event.anchor} contains itself")
            nodes += sizes.get(str(event.anchor), 1)
        elif isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            starts.append(nodes)
            open_anchors.append(event.anchor)
            nodes += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
            started, anchor = starts.pop(), open_anchors.pop()
            if anchor is not None:
                sizes[anchor] = nodes - started
        elif isinstance(event, yaml.ScalarEvent):
            nodes += 1
            if event.anchor is not None:
                sizes[event.anchor] = 1
        if depth > MAX_DEPTH:
            raise UnsafeError(f"{source}: nested deeper than {MAX_DEPTH} levels")
        if nodes > MAX_NODES:
            raise UnsafeError(f"{source}: more than {MAX_NODES:,} values once aliases are expanded")


def _duplicate_keys(node: yaml.Node, source: str, prefix: str = "") -> list[str]:
    """Sentences about keys that a mapping names twice, or that are not text."""
    faults: list[str] = []
    if isinstance(node, yaml.SequenceNode):
        for child in node.value:
            faults += _duplicate_keys(child, source, prefix)
    if not isinstance(node, yaml.MappingNode):
        return faults
    first_line: dict[str, int] = {}
    for key, child in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            faults.append(f"{source}:{line}: a key must be text; got a {key.id}")
            continue
        name = f"{prefix}{key.value}"
        if name in first_line:
            faults.append(f"{name}: given twice, {source}:{first_line[name]} and {source}:{line}; keep one of them")
        first_line.setdefault(name, line)
        faults += _duplicate_keys(child, source, f"{name}.")
    return faults
