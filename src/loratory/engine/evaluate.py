"""Evaluation loss during training: streamed sums over the validation rows; no logits are kept."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from loratory.engine.forward import Forward, merge_metrics
from loratory.engine.micro_batching import MicroBatching
from loratory.engine.ranks import Ranks
from loratory.errors import NumericsError
from loratory.objective.loss import Objective
from loratory.objective.row import Row, batch_of
from loratory.tree.scorer import Scorer


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """Means over the validation rows, weighted like the training loss.

    Attributes:
        loss: Nats per supervised token for SFT.
        metrics: Further means by name.
    """

    loss: float
    metrics: dict[str, float]


class Evaluator:
    """Computes the evaluation loss of the current weights."""

    def __init__(
        self,
        model: torch.nn.Module,
        scorer: Scorer,
        objective: Objective,
        *,
        rows: Sequence[Row],
        ranks: Ranks,
        micro_batching: MicroBatching,
        autocast_dtype: torch.dtype | None,
    ) -> None:
        self._model = model
        self._objective = objective
        self._ranks = ranks
        self._forward = Forward(objective, scorer, device=ranks.device, autocast_dtype=autocast_dtype)
        # Similar lengths together: less padding, and the longest pass first, so that it fails at once if it must.
        by_length = sorted(rows, key=lambda row: -row.num_tokens)
        self._passes = micro_batching.cut(ranks.share(by_length))
        self._micro_batching = micro_batching

    @property
    def largest_pass(self) -> Sequence[Row]:
        """The rows of the pass with the most tokens; empty on a rank without rows."""
        return max(self._passes, key=self._micro_batching.num_tokens, default=[])

    def score(self, rows: Sequence[Row]) -> None:
        """Compute one pass and forget it."""
        self._model.eval()
        try:
            with torch.no_grad():
                self._forward.loss(self._forward.batch(rows))
        finally:
            self._model.train()

    def __call__(self, should_stop: Callable[[], bool]) -> EvaluationResult | None:
        """Evaluate; None when `should_stop` became true before the end. Draws no random number.

        Raises:
            NumericsError: The loss is not finite.
        """
        self._model.eval()
        try:
            return self._evaluate(should_stop)
        finally:
            self._model.train()

    @torch.no_grad()
    def _evaluate(self, should_stop: Callable[[], bool]) -> EvaluationResult | None:
        loss_sum = count = 0.0
        parts = []
        is_stopped = False
        statistics = self._forward.statistics(self._passes, self._ranks)
        for rows in self._passes:
            if is_stopped := should_stop():
                break
            loss = self._forward.loss(batch_of(rows, statistics))
            loss_sum += float(loss.sum)
            count += loss.count
            parts.append(loss.metrics)
        if self._ranks.any(is_stopped):
            return None
        loss_sum, count = self._ranks.sum([loss_sum, count])
        mean = loss_sum / count
        if mean != mean or mean in (float("inf"), float("-inf")):
            raise NumericsError(
                f"the evaluation loss is not finite ({mean}). Lower train.learning_rate or use float32."
            )
        metrics = merge_metrics(self._ranks.gather(merge_metrics(parts)))
        return EvaluationResult(mean, self._objective.summary(metrics))
