"""What a run directory says about a run: settings, cost, curves, predictions. Reads only, loads no model."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from loratory.compare.test_set import TestSet, read_test_set
from loratory.config.document import read_document
from loratory.engine.forecast.record import read_record, tensor_bytes
from loratory.errors import ConfigError, DataError, IntegrityError
from loratory.infer.predict import Prediction, read_predictions
from loratory.run import RunDirectory, read_metrics, read_provenance
from loratory.run.metrics import MetricValue

PREDICTIONS_FILE = "generated_predictions.jsonl"
BASE_SUFFIX = "-base"


@dataclass(frozen=True, slots=True)
class Cost:
    """What a run cost; None where the run did not record it.

    Attributes:
        train_seconds: Optimizer steps times their mean time, without the first step of a run.
        peak_bytes: Highest memory of training.
        trainable: Trained numbers.
        adapter_bytes: Tensors of the result on disk.
    """

    train_seconds: float | None = None
    peak_bytes: float | None = None
    trainable: float | None = None
    adapter_bytes: float | None = None


@dataclass(frozen=True, slots=True)
class RunFacts:
    """A run as its directory describes it.

    Attributes:
        path: The run directory.
        name: Its folder's name.
        seed: train.seed.
        config: Dotted key -> value of the configuration.
        base_identity: sha256 over the base's weights.
        data: Role -> sha256 of the training data's sources.
        environment: Versions, machine, threads and git revision of the run.
        cost: What it cost.
        metrics: The lines of metrics.jsonl.
        is_finished: Whether it has a final model.
        adapter_sha256: Of the adapter's tensors; None for a whole model.
    """

    path: Path
    name: str
    seed: int | None
    config: Mapping[str, object]
    base_identity: str
    data: Mapping[str, str]
    environment: Mapping[str, str]
    cost: Cost
    metrics: tuple[Mapping[str, MetricValue], ...]
    is_finished: bool
    adapter_sha256: str | None

    @property
    def prediction_names(self) -> tuple[str, ...]:
        """Names of the run's sets of predictions, those of the untrained base left out."""
        found = (file.parent.name for file in self.path.glob(f"predictions/*/{PREDICTIONS_FILE}"))
        return tuple(sorted(name for name in found if not name.endswith(BASE_SUFFIX)))


@dataclass(frozen=True, slots=True)
class Answers:
    """A set of predictions.

    Attributes:
        folder: Where it is.
        rows: The predictions.
        test_set: Which rows they are of.
    """

    folder: Path
    rows: tuple[Prediction, ...]
    test_set: TestSet


def read_run(path: Path) -> RunFacts:
    """Read what a run directory says.

    Raises:
        RunError: It is no run directory.
        IntegrityError: Its files cannot be read.
    """
    directory = RunDirectory.read(path)
    provenance = read_provenance(directory.provenance)
    try:
        config = flat(read_document(directory.config))
    except (ConfigError, OSError) as error:
        raise IntegrityError(f"{directory.config}: cannot be read ({error})") from error
    versions, data = provenance.get("versions"), provenance.get("data")
    environment = {
        **({str(k): str(v) for k, v in versions.items()} if isinstance(versions, dict) else {}),
        **{key: str(provenance.get(key)) for key in ("git_revision", "python", "machine", "threads", "num_processes")},
    }
    seed = config.get("train.seed")
    metrics = _metrics(directory.metrics)
    return RunFacts(
        path=path,
        name=path.resolve().name,
        seed=seed if isinstance(seed, int) else None,
        config=config,
        base_identity=str(provenance.get("base_identity", "")),
        data={str(k): str(v) for k, v in data.items()} if isinstance(data, dict) else {},
        environment=environment,
        cost=_cost(directory, provenance.get("trainable_parameters"), metrics),
        metrics=metrics,
        is_finished=directory.is_finished,
        adapter_sha256=_adapter_sha256(directory.final_model),
    )


def read_answers(run: RunFacts, name: str) -> Answers:
    """A run's predictions of that name.

    Raises:
        DataError: They are missing or damaged.
        IntegrityError: The fingerprint beside them is.
    """
    folder = run.path / "predictions" / name
    rows = tuple(read_predictions(folder / PREDICTIONS_FILE))
    return Answers(folder, rows, read_test_set(folder, rows))


def choose_predictions(runs: tuple[RunFacts, ...], name: str | None = None) -> str:
    """The name of the predictions that all runs have.

    Args:
        runs: At least one run.
        name: The name wanted; None takes the one that all have, or that of the runs' own test data.

    Raises:
        DataError: A run has none (the command that makes them is named), or the choice is open.
    """
    shared = set.intersection(*(set(run.prediction_names) for run in runs))
    wanted = name
    if wanted is None and shared:
        own = {Path(str(run.config["data.test"])).stem for run in runs if run.config.get("data.test")} & shared
        candidates = shared if len(shared) == 1 else own
        if len(candidates) != 1:
            raise DataError(
                f"these runs share several sets of predictions ({', '.join(sorted(shared))}); choose one with "
                "--predictions NAME"
            )
        wanted = next(iter(candidates))
    if wanted is not None and wanted in shared:
        return wanted
    raise DataError(_missing(runs, wanted))


def _missing(runs: tuple[RunFacts, ...], wanted: str | None) -> str:
    everywhere = {name for run in runs for name in run.prediction_names}
    what = f"predictions '{wanted}'" if wanted else "predictions that all of them have"
    lines = [f"these runs have no {what}:" if len(runs) > 1 else f"{runs[0].path}: no {what}:"]
    for run in runs:
        if wanted in run.prediction_names:
            continue
        if not wanted and run.prediction_names and everywhere == set(run.prediction_names):
            continue
        has = f"has {', '.join(run.prediction_names)}" if run.prediction_names else "has none"
        lines.append(f"  {run.name} {has}; {_command(run, runs, wanted)}")
    return "\n".join(lines)


def _command(run: RunFacts, runs: tuple[RunFacts, ...], wanted: str | None) -> str:
    """The command that makes the missing predictions."""
    if not run.is_finished:
        return f"its training is not finished: loratory train {run.path / 'config.yaml'} --resume"
    sources = [str(other.config["data.test"]) for other in (run, *runs) if other.config.get("data.test")]
    fitting = [source for source in sources if wanted is None or Path(source).stem == wanted]
    return f"make them with: loratory predict {run.path} --data {fitting[0] if fitting else 'FILE'}"


def flat(value: object, prefix: str = "") -> dict[str, object]:
    """Nested sections as dotted keys; lists and empty mappings stay values."""
    if not isinstance(value, Mapping) or not value:
        return {prefix: value}
    found: dict[str, object] = {}
    for key, inner in value.items():
        found |= flat(inner, f"{prefix}.{key}" if prefix else str(key))
    return found


def _cost(directory: RunDirectory, trainable: object, metrics: tuple[Mapping[str, MetricValue], ...]) -> Cost:
    record = read_record(directory.path)
    measured = None if record is None else record.measured
    steps = max((int(line["step"]) for line in metrics if "loss" in line), default=0)
    memory_mib = [float(line["memory_mib"]) for line in metrics if "memory_mib" in line]
    step_seconds = None if measured is None else measured.step_seconds
    return Cost(
        train_seconds=None if step_seconds is None else step_seconds * steps,
        peak_bytes=measured.peak_bytes if measured else max(memory_mib) * 2**20 if memory_mib else None,
        trainable=float(trainable) if isinstance(trainable, int) else None,
        adapter_bytes=tensor_bytes(directory.final_model) or None,
    )


def _metrics(path: Path) -> tuple[Mapping[str, MetricValue], ...]:
    if not path.exists():
        return ()
    try:
        return tuple(read_metrics(path))
    except (OSError, ValueError) as error:
        raise IntegrityError(f"{path}: cannot be read ({error})") from error


def _adapter_sha256(final_model: Path) -> str | None:
    try:
        found = json.loads((final_model / "loratory_adapter.json").read_text(encoding="utf-8"))["tensors_sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return str(found)
