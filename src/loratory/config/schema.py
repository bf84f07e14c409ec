"""The configuration described for others: JSON schema for editors, a reference page for people."""

import json
from typing import Any

from loratory.config.document import dump_document
from loratory.config.fields import ConfigField, config_fields, config_sections
from loratory.config.root import RunConfig

SCHEMA_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def config_schema() -> dict[str, Any]:
    """Return the JSON schema of a run file; an editor with YAML support completes and checks keys with it."""
    return {"$schema": SCHEMA_DIALECT, **RunConfig.model_json_schema(), "title": "loratory run"}


def schema_to_json(schema: dict[str, Any]) -> str:
    """Return the schema as a JSON file's text."""
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def config_reference() -> str:
    """Return the Markdown page that lists every field with type, default and description."""
    lines = [
        "# Configuration reference",
        "",
        "One YAML file holds these sections. Every field can be overridden on the command line:",
        "`loratory train run.yaml train.learning_rate=2e-4`. An unknown key is an error.",
        "`make docs` writes this page from the code; do not edit it by hand.",
        "",
    ]
    by_section: dict[str, list[ConfigField]] = {}
    for field in config_fields().values():
        by_section.setdefault(field.section, []).append(field)
    for section, fields in by_section.items():
        kind = config_sections()[section]
        lines += [f"##{'#' * section.count('.')} {section}", "", f"{(kind.__doc__ or '').strip()}", ""]
        lines += ["| field | type | default | meaning |", "|---|---|---|---|"]
        lines += [_row(field) for field in fields]
        lines.append("")
    return "\n".join(lines)


def _row(field: ConfigField) -> str:
    if field.is_required:
        default = "required"
    elif field.default is None:
        default = ""
    elif field.default in ([], {}):
        default = "empty"
    else:
        default = f"`{' '.join(dump_document(field.default).removesuffix('...' + chr(10)).split())}`"
    allowed = field.allowed.removesuffix(" or null").replace("|", "\\|")
    return f"| `{field.name}` | {allowed} | {default} | {field.description.replace('|', '&#124;')} |"
