"""One optimizer step: passes, one division by the global count, checks, clipping, update.

Law (accumulation): the count over all passes and ranks is known before the first backward, so k passes, or ranks,
give the gradient of one batch. Law (numerics): nothing non-finite reaches the optimizer.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from loratory.adapter.stepping import NoHook, StepHook
from loratory.engine.forward import Forward, merge_metrics
from loratory.engine.gradients import non_finite, refuse_untrained_layers, scale_to_norm, total_norm
from loratory.engine.micro_batching import MicroBatching
from loratory.engine.optimizer import NamedOptimizer
from loratory.engine.ranks import Ranks
from loratory.engine.scale import LossScale
from loratory.errors import DataError, NumericsError, ResourceError
from loratory.objective.loss import LossSum, Objective
from loratory.objective.row import Batch, Row, batch_of
from loratory.run.commit import write_text
from loratory.tree.fused.scorer import FusedScorer
from loratory.tree.scorer import Scorer

_SHOWN_ROWS = 8
_CPU_OUT_OF_MEMORY = "can't allocate memory"


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one step did, over all ranks.

    Attributes:
        loss_sum: Summed loss.
        count: Its normaliser.
        grad_norm: Norm before clipping.
        num_tokens: Tokens of all sequences, before sharing.
        metrics: name -> (sum, count).
        is_skipped: Nothing was updated: the gradient overflowed in float16 and the scale was halved, or there were no
            rows to learn from.
        seconds_before: Time of this step's share in a pass that was computed before the step was called.
    """

    loss_sum: float
    count: float
    grad_norm: float
    num_tokens: int
    metrics: Mapping[str, tuple[float, float]]
    is_skipped: bool = False
    seconds_before: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class JoinableStep:
    """A step of a single pass, ready to be computed together with those of other models on the same base.

    Attributes:
        step: Whose it is; see `TrainStep.accept`.
        scorer: Its model's.
        objective: Its loss.
        batch: The pass.
        rows: The rows of the batch.
        count: What its loss is divided by.
        max_tokens: Token budget of a pass; None: no limit.
    """

    step: "TrainStep"
    scorer: FusedScorer
    objective: Objective
    batch: Batch
    rows: Sequence[Row]
    count: float
    max_tokens: int | None


@dataclass(frozen=True, slots=True, eq=False)
class _Accepted:
    rows: Sequence[Row]
    loss: LossSum
    seconds: float


class TrainStep:
    """Holds what every step needs; calling it does one step."""

    def __init__(
        self,
        scorer: Scorer,
        objective: Objective,
        *,
        parameters: Mapping[str, torch.nn.Parameter],
        optimizer: NamedOptimizer,
        ranks: Ranks,
        micro_batching: MicroBatching,
        max_grad_norm: float,
        autocast_dtype: torch.dtype | None,
        dump_dir: Path | None = None,
        hook: StepHook | None = None,
    ) -> None:
        self._scorer = scorer
        self._objective = objective
        self._parameters = parameters
        self._optimizer = optimizer
        self._ranks = ranks
        self._micro_batching = micro_batching
        self._max_grad_norm = max_grad_norm
        self._forward = Forward(objective, scorer, device=ranks.device, autocast_dtype=autocast_dtype)
        self._dump_dir = dump_dir
        self._hook = NoHook() if hook is None else hook
        self._has_seen_gradient = False
        self._accepted: _Accepted | None = None
        self._may_join = ranks.num == 1 and autocast_dtype is None
        self.scale = LossScale(active=autocast_dtype == torch.float16)

    def __call__(self, rows: Sequence[Row], step: int) -> StepResult:
        """Do one step on the rows of the whole optimizer batch; each rank takes its share.

        Args:
            rows: The batch, the same on every rank. Without any, which only a rollout can give, nothing happens.
            step: 0-based step, for messages and for the check of the first step.

        Raises:
            NumericsError: The loss or a gradient is not finite; parameters and optimizer are untouched.
            AdapterError: In step 0: a targeted layer gets no gradient.
            DataError: No row of the batch is supervised.
            ResourceError: Memory ran out.
        """
        if not rows:
            return StepResult(loss_sum=0.0, count=0.0, grad_norm=0.0, num_tokens=0, metrics={}, is_skipped=True)
        count = sum(row.count for row in rows)
        if not count > 0:
            raise DataError(f"step {step + 1}: no supervised token in the whole batch: {_origins(rows)}.")
        accepted, self._accepted = self._accepted, None
        if accepted is not None:
            assert all(one is other for one, other in zip(accepted.rows, rows, strict=True))
            passes, losses, seconds_before = [list(rows)], [accepted.loss], accepted.seconds
        else:
            (passes, losses), seconds_before = self._differentiate(rows, count, step), 0.0
        loss_sum = self._loss_sum(losses, passes, step)
        self._ranks.sum_gradients(self._parameters.values())
        self._hook.before_update(self.scale.value)
        norm = self._unscaled_norm()
        result = StepResult(
            loss_sum=loss_sum,
            count=count,
            grad_norm=float(norm),
            num_tokens=sum(row.num_tokens for row in rows),
            metrics=self._metrics(losses),
            is_skipped=not math.isfinite(float(norm)),
            seconds_before=seconds_before,
        )
        if result.is_skipped:
            if not self.scale.can_shrink:
                self._refuse_gradient(rows, step)
            self.scale.shrink()
            return result
        if step == 0 and not self._objective.may_stand_still:
            refuse_untrained_layers(self._parameters)
        if self._objective.may_stand_still and not self._has_seen_gradient and float(norm) > 0:
            refuse_untrained_layers(self._parameters)
            self._has_seen_gradient = True
        scale_to_norm(self._parameters, self._max_grad_norm, norm)
        self._optimizer.optimizer.step()
        self._hook.after_update(step + 1)
        self.scale.grow()
        return result

    def joinable(self, rows: Sequence[Row]) -> JoinableStep | None:
        """The step on these rows, if it may be computed in a pass that several models share."""
        count = sum(row.count for row in rows)
        if not self._may_join or not isinstance(self._scorer, FusedScorer) or not count > 0:
            return None
        if type(self._objective).statistics is not Objective.statistics or len(self._micro_batching.cut(rows)) != 1:
            return None
        batch = batch_of(rows, {})
        if not self._scorer.can_join(batch.tree):
            return None
        return JoinableStep(self, self._scorer, self._objective, batch, rows, count, self._micro_batching.max_tokens)

    def forget_gradient(self) -> None:
        """Throw away what a backward pass has left."""
        self._optimizer.optimizer.zero_grad(set_to_none=True)

    def accept(self, rows: Sequence[Row], loss: LossSum, *, seconds: float) -> None:
        """Take over the loss of a pass over the rows of the next step; its gradient is in the parameters already."""
        self._accepted = _Accepted(rows, loss, seconds)

    def _differentiate(self, rows: Sequence[Row], count: float, step: int) -> tuple[list[list[Row]], list[LossSum]]:
        """Passes over this rank's rows and their losses; the gradient is in the parameters."""
        passes = self._micro_batching.cut(self._ranks.share(rows))
        self.forget_gradient()
        try:
            statistics = self._forward.statistics(passes, self._ranks)
            batches = [batch_of(rows_of_pass, statistics) for rows_of_pass in passes]
            with self._scorer.one_root([batch.tree for batch in batches]):
                return passes, [self.backward(batch, count) for batch in batches]
        except (MemoryError, RuntimeError) as error:
            if is_out_of_memory(error):
                raise _out_of_memory(passes, step, error) from error
            raise

    def batch(self, rows: Sequence[Row]) -> Batch:
        """One pass over these rows alone."""
        return self._forward.batch(rows)

    def backward(self, batch: Batch, count: float) -> LossSum:
        """Add the gradient of one pass, divided by `count`; the loss without its graph."""
        loss = self._forward.loss(batch)
        (loss.sum * (self.scale.value / count)).backward()  # type: ignore[no-untyped-call]
        return LossSum(loss.sum.detach(), loss.count, loss.metrics)

    def _loss_sum(self, losses: Sequence[LossSum], passes: Sequence[Sequence[Row]], step: int) -> float:
        values = torch.stack([loss.sum.double() for loss in losses]).tolist() if losses else []
        total = self._ranks.sum([sum(values)])[0]
        if not math.isfinite(total):
            mine = [r for rows, value in zip(passes, values, strict=True) if not math.isfinite(value) for r in rows]
            bad = [row for part in self._ranks.gather(mine) for row in part]
            self._refuse(f"the loss is not finite ({total})", bad, [], step)
        return total

    def _unscaled_norm(self) -> torch.Tensor:
        if self.scale.active:
            for parameter in self._parameters.values():
                if parameter.grad is not None:
                    parameter.grad /= self.scale.value
        return total_norm(self._parameters)

    def _metrics(self, losses: Sequence[LossSum]) -> dict[str, tuple[float, float]]:
        metrics = merge_metrics([loss.metrics for loss in losses])
        return metrics if self._ranks.num == 1 else merge_metrics(self._ranks.gather(metrics))

    def _refuse_gradient(self, rows: Sequence[Row], step: int) -> None:
        self._refuse("the gradient is not finite", rows, non_finite(self._parameters), step)

    def _refuse(self, what: str, rows: Sequence[Row], names: Sequence[str], step: int) -> None:
        where = ""
        if self._dump_dir is not None:
            path = self._dump_dir / f"numerics-step-{step + 1}.json"
            where = f" Rows and tensors are listed in {path}."
            if self._ranks.is_main:
                described = [{"origin": row.origin, "num_tokens": row.num_tokens} for row in rows]
                content = {"step": step + 1, "fault": what, "rows": described, "parameters": list(names)}
                write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
        tensors = f" First tensors: {', '.join(names[:3])}." if names else ""
        raise NumericsError(
            f"step {step + 1}: {what}; nothing was updated. Rows: {_origins(rows)}.{tensors}{where} "
            "Lower train.learning_rate, use float32 (model.dtype, train.precision), or look at these rows."
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch, on any device, or python found no memory."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or _CPU_OUT_OF_MEMORY in str(error)


def _origins(rows: Sequence[Row]) -> str:
    shown = ", ".join(row.origin for row in rows[:_SHOWN_ROWS])
    return shown + (f", … ({len(rows)} in all)" if len(rows) > _SHOWN_ROWS else "")


def _out_of_memory(passes: Sequence[Sequence[Row]], step: int, error: BaseException) -> ResourceError:
    largest = max(passes, key=lambda rows: sum(row.num_tokens for row in rows))
    tokens = sum(row.num_tokens for row in largest)
    return ResourceError(
        f"step {step + 1}: out of memory; the largest forward pass has {len(largest)} rows and {tokens} tokens "
        f"(longest row {max(row.num_tokens for row in largest)}). Lower train.micro_batch_size or "
        "train.max_tokens_per_micro_batch (the loss stays the same), turn on train.gradient_checkpointing, lower "
        f"data.cutoff_len, or load the base in 4 bits; then go on with --resume. ({str(error).splitlines()[0]})"
    )
