"""Reading the fixtures: files as other tools' users write them."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from loratory.config import RunConfig
from loratory.config.fields import config_fields
from loratory.config.foreign_file import ForeignRun, read_foreign_run

FIXTURES = Path(__file__).parent / "fixtures"


def departures(config: RunConfig) -> dict[str, Any]:
    """Every field of a configuration that is not our default: what an import decided."""
    values = config.model_dump(mode="json")
    found = {}
    for key, field in config_fields().items():
        value = functools.reduce(lambda inner, step: inner[step], key.split("."), values)
        if field.is_required or value != field.default:
            found[key] = value
    return found


def said(run: ForeignRun) -> dict[str, set[str]]:
    """Kind of finding -> the settings it is about."""
    kinds: dict[str, set[str]] = {}
    for finding in run.findings:
        kinds.setdefault(finding.kind, set()).add(finding.key)
    return kinds


class Reader:
    """Reads fixtures and texts."""

    fixtures = FIXTURES
    departures = staticmethod(departures)
    said = staticmethod(said)

    def files(self, *names: str, **options: Any) -> ForeignRun:
        return read_foreign_run([FIXTURES / name for name in names], **options)

    def settings(self, tool: str, text: str = "", overrides: Sequence[str] = ()) -> ForeignRun:
        """Settings as flags of a made-up command line."""
        return read_foreign_run([], tool=tool, command=f"python x.py {text}", overrides=overrides)


@pytest.fixture(scope="session")
def reader() -> Callable[..., Any]:
    return Reader()  # type: ignore[return-value]
