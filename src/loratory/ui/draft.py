"""A run file while it is written on the page: its faults, its plan, and what to begin with."""

from collections.abc import Collection
from dataclasses import dataclass

from loratory.config import RunConfig, build_config, read_config_text
from loratory.config.document import dump_document, parse_document
from loratory.errors import ConfigError, LoratoryError
from loratory.plan.planning import Plan, make_plan

SOURCE = "the run file"
BLANK = """\
model:
  model_name_or_path:          # a folder, or a name on the hub
data:
  train:                       # a file of rows
  test:
adapter:
  method: lora
  rank: 8
train:
  num_epochs: 3
  learning_rate: 2e-4
  batch_size: 16
run:
  name: first
"""


@dataclass(frozen=True, slots=True)
class Draft:
    """A run file without faults.

    Attributes:
        config: What it says.
        notes: What was said while reading it.
    """

    config: RunConfig
    notes: tuple[str, ...]


def read_draft(text: str) -> Draft:
    """Read a run file.

    Raises:
        ConfigError: With every fault; a run file that names no training rows is one.
        UnsafeError: It names code to run, or expands without bounds.
    """
    reading = read_config_text(text, SOURCE)
    if not reading.config.data.train:
        raise ConfigError("data.train: names no training rows; give the path of a file")
    return Draft(reading.config, reading.notes)


def faults(text: str) -> tuple[str, ...]:
    """What is wrong with a run file, one sentence for each fault; nothing when it can be planned and started."""
    try:
        read_draft(text)
    except ConfigError as error:
        return tuple(error.faults)
    except LoratoryError as error:
        return (str(error),)
    return ()


def plan_draft(text: str, *, may_calibrate: bool) -> tuple[Plan, tuple[str, ...]]:
    """The plan of a run file, and notes. Loads no weights, trains nothing, runs no code of the model's.

    Args:
        text: The run file.
        may_calibrate: Measure this machine when that was not done before; other work on it would falsify the figures.

    Raises:
        UserError: What training would refuse before its first step.
        UnsafeError: As `read_draft`.
    """
    draft = read_draft(text)
    notes = list(draft.notes)
    plan = make_plan(draft.config, may_calibrate=may_calibrate, note=notes.append)
    return plan, tuple(notes)


def draft_of_run(text: str, taken: Collection[str]) -> str:
    """A run's file as the beginning of another: what differs from the defaults, under the next free name.

    Args:
        text: The run file.
        taken: Names that are not free.
    """
    try:
        config = read_config_text(text, SOURCE).config
    except LoratoryError:
        return text
    own = config.run.model_copy(update={"name": next_name(config.run.name, taken), "output_dir": "outputs"})
    config = config.model_copy(update={"run": own})
    values = config.model_dump(mode="json", exclude_defaults=True)
    shown = {name: values[name] for name in RunConfig.model_fields if values.get(name)}
    found = dump_document(shown)
    # A value whose default depends on others would be lost; then the whole file is the safe beginning.
    again = build_config(parsed) if isinstance(parsed := parse_document(found, SOURCE), dict) else None
    return found if again == config else dump_document(config.model_dump(mode="json"))


def next_name(name: str, taken: Collection[str]) -> str:
    """The name itself, or with the first number that makes it free."""
    number = 2
    found = name
    while found in taken:
        found = f"{name[:90]}-{number}"
        number += 1
    return found
