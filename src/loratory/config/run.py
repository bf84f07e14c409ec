"""Section `run`: where results go and who watches. Obeyed by `loratory.run` and `loratory.engine`."""

from typing import Literal

from pydantic import Field

from loratory.config.section import Section

Tracker = Literal["tensorboard", "wandb", "mlflow", "trackio"]


class OutputConfig(Section):
    """The run directory and the experiment trackers."""

    name: str = Field("run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$", description="Name of the run.")
    output_dir: str = Field("outputs", description="Folder that holds run directories: <output_dir>/<name>.")
    trackers: list[Tracker] = Field(default_factory=list, description="Experiment trackers besides metrics.jsonl.")
    project: str = Field("loratory", description="Project name given to the trackers.")
