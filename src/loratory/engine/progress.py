"""Progress: everything the loop knows besides weights, moments and generators; small, JSON, in every checkpoint."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from loratory.engine.forward import merge_metrics
from loratory.engine.step import StepResult
from loratory.errors import IntegrityError


@dataclass(slots=True)
class Window:
    """Sums since the last line of metrics.jsonl."""

    loss_sum: float = 0.0
    count: float = 0.0
    num_tokens: int = 0
    seconds: float = 0.0
    num_skipped: int = 0
    metrics: dict[str, tuple[float, float]] = field(default_factory=dict)

    def add(self, result: StepResult, seconds: float) -> None:
        """Add one step."""
        self.loss_sum += result.loss_sum
        self.count += result.count
        self.num_tokens += result.num_tokens
        self.seconds += seconds
        self.num_skipped += result.is_skipped
        self.add_metrics(result.metrics)

    def add_metrics(self, metrics: Mapping[str, tuple[float, float]]) -> None:
        """Add further numbers of this window."""
        self.metrics = merge_metrics([self.metrics, metrics])


@dataclass(slots=True)
class Progress:
    """Where a run stands.

    Attributes:
        step: Optimizer steps done.
        best_step: Step of the lowest evaluation loss that has a checkpoint.
        best_loss: That loss.
        evaluations_without_gain: Evaluations since then.
        last_loss: Training loss of the last logged window.
        is_evaluation_pending: A signal came before or in the evaluation of this step.
        is_stopped_early: The patience ran out; no further step is done.
        num_tokens: Tokens of all rows trained on so far.
        train_seconds: Time in steps so far, over all processes of the run's life.
        metrics_lines: Lines of metrics.jsonl that belong to this state.
        loss_scale: float16 only.
        loss_scale_good_steps: float16 only.
        tokens_per_pass: Token budget of a pass, if there is one; a resumed run keeps it, because where a batch is cut
            decides the last bits of its gradient.
        window: Sums since the last logged line.
    """

    step: int = 0
    best_step: int | None = None
    best_loss: float | None = None
    evaluations_without_gain: int = 0
    last_loss: float | None = None
    is_evaluation_pending: bool = False
    is_stopped_early: bool = False
    num_tokens: int = 0
    train_seconds: float = 0.0
    metrics_lines: int = 0
    loss_scale: float = 1.0
    loss_scale_good_steps: int = 0
    tokens_per_pass: int | None = None
    window: Window = field(default_factory=Window)

    def to_json(self) -> dict[str, object]:
        """A JSON-able copy."""
        return asdict(self)

    @classmethod
    def from_json(cls, raw: Mapping[str, object]) -> "Progress":
        """Read back what `to_json` wrote.

        Raises:
            IntegrityError: Other fields than this version's.
        """
        try:
            window = Window(**raw["window"])  # type: ignore[arg-type]
            window.metrics = {name: (pair[0], pair[1]) for name, pair in window.metrics.items()}
            return cls(**{**raw, "window": window})  # type: ignore[arg-type]
        except (KeyError, TypeError, IndexError) as error:
            raise IntegrityError(f"the checkpoint's progress was written by another version ({error})") from error
