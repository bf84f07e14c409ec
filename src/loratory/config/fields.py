"""The list of all configuration fields: what names exist, what they hold, what a wrong name probably meant."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from types import UnionType
from typing import Any, Literal, TypeGuard, Union, get_args, get_origin

from loratory.config.root import RunConfig
from loratory.config.section import Section
from loratory.interop.training_arguments import FOREIGN_NAMES


@dataclass(frozen=True, slots=True)
class ConfigField:
    """One field of one section.

    Attributes:
        section: Name of the section.
        name: Name of the field.
        annotation: Its type.
        default: Its default, or None when `is_required`.
        is_required: Whether the user must give it.
        description: One sentence.
    """

    section: str
    name: str
    annotation: Any
    default: object
    is_required: bool
    description: str

    @property
    def key(self) -> str:
        """The dotted key."""
        return f"{self.section}.{self.name}"

    @property
    def allowed(self) -> str:
        """The type in words, such as "one of linear, cosine, constant"."""
        return describe_type(self.annotation)

    @property
    def is_mapping(self) -> bool:
        """Whether a dotted key may point into its value."""
        return any(get_origin(kind) is dict for kind in _flat(self.annotation))

    @property
    def takes_text_only(self) -> bool:
        """Whether every value but null is text, so that `key=007` on a command line needs no quotes."""
        return all(kind is str or kind is type(None) or isinstance(kind, str) for kind in _flat(self.annotation))

    @property
    def takes_text_or_list(self) -> bool:
        """Whether a value is text or a list, so that a lone number on a command line can only be meant as text."""
        kinds = _flat(self.annotation)
        return str in kinds and not {int, float, bool} & {kind for kind in kinds if isinstance(kind, type)}


@cache
def config_sections() -> Mapping[str, type[Section]]:
    """Return every section by dotted key, a section's own sections right behind it."""
    found: dict[str, type[Section]] = {}

    def collect(prefix: str, section: type[Section]) -> None:
        for name, info in section.model_fields.items():
            if _is_section(info.annotation):
                found[prefix + name] = info.annotation
                collect(f"{prefix}{name}.", info.annotation)

    collect("", RunConfig)
    return found


@cache
def config_fields() -> Mapping[str, ConfigField]:
    """Return every field by dotted key, in the order of the sections."""
    fields = {}
    for section, kind in config_sections().items():
        for name, info in kind.model_fields.items():
            if _is_section(info.annotation):
                continue
            is_required = info.is_required()
            field = ConfigField(
                section=section,
                name=name,
                annotation=info.annotation,
                default=None if is_required else info.get_default(call_default_factory=True, validated_data={}),
                is_required=is_required,
                description=info.description or "",
            )
            fields[field.key] = field
    return fields


def field_of(key: str) -> ConfigField | None:
    """Return the field that a dotted key names or points into, such as `adapter.rank_pattern.q_proj`."""
    steps = key.split(".")
    for length in range(len(steps), 0, -1):
        if found := config_fields().get(".".join(steps[:length])):
            return found
    return None


def _is_section(annotation: Any) -> TypeGuard[type[Section]]:
    return isinstance(annotation, type) and issubclass(annotation, Section)


def section_names() -> list[str]:
    """Return the names of the outer sections in order."""
    return list(RunConfig.model_fields)


def suggest_key(key: str) -> str:
    """Return " Did you mean 'train.learning_rate'?" for a wrong dotted key, or an empty string.

    Looks for the same name in other sections, for a near name in the same section, for another tool's name, and
    for a near name anywhere, in this order.
    """
    section, _, name = key.rpartition(".")
    fields = config_fields()
    same_section = [field.key for field in fields.values() if field.section == section]
    same_name = [field.key for field in fields.values() if field.name == name]
    near_here = get_close_matches(key, same_section, n=1, cutoff=0.75)
    foreign = FOREIGN_NAMES.get(name)
    found = near_here or same_name or ([foreign] if foreign else []) or _near_anywhere(section, name)
    if found:
        return f" Did you mean {' or '.join(repr(each) for each in found)}?"
    return ""


def _near_anywhere(section: str, name: str) -> list[str]:
    by_name: dict[str, str] = {}
    for field in config_fields().values():
        by_name.setdefault(field.name, field.key)
    for each in section_names() if not section else ():
        by_name[each] = each
    return [by_name[near] for near in get_close_matches(name, list(by_name), n=1, cutoff=0.7)]


def describe_type(annotation: Any) -> str:
    """Return the type in words that a user without Python understands."""
    parts = list(dict.fromkeys(_describe(kind) for kind in _flat(annotation) if not isinstance(kind, str)))
    literals = [kind for kind in _flat(annotation) if isinstance(kind, str)]
    if literals:
        parts.insert(0, f"one of {', '.join(literals)}")
    return " or ".join(parts)


def _flat(annotation: Any) -> Sequence[Any]:
    """The members of a union; the values of a Literal."""
    origin = get_origin(annotation)
    if origin is Union or origin is UnionType:
        return [inner for each in get_args(annotation) for inner in _flat(each)]
    if origin is Literal:
        return list(get_args(annotation))
    return [annotation]


def _describe(kind: Any) -> str:
    names: dict[Any, str] = {
        str: "text",
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        type(None): "null",
        Any: "a value",
    }
    if kind in names:
        return names[kind]
    arguments = get_args(kind)
    if get_origin(kind) is list:
        return f"a list of {describe_type(arguments[0]).replace('one of ', '')}"
    if get_origin(kind) is dict:
        return f"a mapping of {describe_type(arguments[0])} to {describe_type(arguments[1])}"
    return str(kind)
