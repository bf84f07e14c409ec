"""Experiment trackers by name: small adapters to one protocol; each library is imported only when asked for."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from loratory.errors import MissingExtraError
from loratory.run.metrics import MetricValue


class Tracker(Protocol):
    """Receives every line of metrics.jsonl."""

    def log(self, step: int, values: Mapping[str, MetricValue]) -> None:
        """Record the values of a step."""
        ...

    def close(self) -> None:
        """Flush and end."""
        ...


class TensorboardTracker:
    """Event files below RUN/tensorboard."""

    def __init__(self, folder: Path, *, first_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # purge_step hides what a killed process logged beyond the checkpoint it resumes from.
        self._writer = SummaryWriter(str(folder), purge_step=first_step + 1)

    def log(self, step: int, values: Mapping[str, MetricValue]) -> None:
        """Record the numbers as scalars."""
        for name, value in numbers(values).items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush and end."""
        self._writer.close()


class WandbTracker:
    """Weights & Biases; offline or online is its own affair (WANDB_MODE)."""

    def __init__(self, folder: Path, *, project: str, name: str, run_id: str, config: Mapping[str, Any]) -> None:
        import wandb

        self._run = wandb.init(
            project=project, name=name, id=run_id, resume="allow", dir=str(folder), config=dict(config)
        )

    def log(self, step: int, values: Mapping[str, MetricValue]) -> None:
        """Record the numbers."""
        self._run.log(numbers(values), step=step)

    def close(self) -> None:
        """Flush and end."""
        self._run.finish()


class MlflowTracker:
    """MLflow; where to is its own affair (MLFLOW_TRACKING_URI)."""

    def __init__(self, *, project: str, name: str, config: Mapping[str, Any]) -> None:
        import mlflow

        self._mlflow = mlflow
        mlflow.set_experiment(project)
        mlflow.start_run(run_name=name)
        mlflow.log_dict(dict(config), "config.json")

    def log(self, step: int, values: Mapping[str, MetricValue]) -> None:
        """Record the numbers."""
        self._mlflow.log_metrics(numbers(values), step=step)

    def close(self) -> None:
        """Flush and end."""
        self._mlflow.end_run()


class TrackioTracker:
    """Trackio."""

    def __init__(self, *, project: str, name: str, config: Mapping[str, Any]) -> None:
        import trackio

        self._trackio = trackio
        trackio.init(project=project, name=name, config=dict(config), resume="allow")

    def log(self, step: int, values: Mapping[str, MetricValue]) -> None:
        """Record the numbers."""
        self._trackio.log(numbers(values), step=step)

    def close(self) -> None:
        """Flush and end."""
        self._trackio.finish()


def make_trackers(
    names: Sequence[str],
    *,
    folder: Path,
    project: str,
    run_name: str,
    run_id: str,
    first_step: int,
    config: Mapping[str, Any],
) -> list[Tracker]:
    """Start the trackers named in run.trackers.

    Raises:
        MissingExtraError: A tracker's library is not installed.
    """
    makers: dict[str, Callable[[], Tracker]] = {
        "tensorboard": lambda: TensorboardTracker(folder / "tensorboard", first_step=first_step),
        "wandb": lambda: WandbTracker(folder, project=project, name=run_name, run_id=run_id, config=config),
        "mlflow": lambda: MlflowTracker(project=project, name=run_name, config=config),
        "trackio": lambda: TrackioTracker(project=project, name=run_name, config=config),
    }
    trackers: list[Tracker] = []
    for name in names:
        try:
            trackers.append(makers[name]())
        except ImportError as error:
            raise MissingExtraError(f"run.trackers: {name}", name) from error
    return trackers


def numbers(values: Mapping[str, MetricValue]) -> dict[str, float]:
    """The numeric values but the step itself."""
    return {n: float(v) for n, v in values.items() if n != "step" and not isinstance(v, str)}
