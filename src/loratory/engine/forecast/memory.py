"""Memory of a training run by part. The one model of it: training sets its pass size by it, the planner shows it."""

from collections.abc import Mapping
from dataclasses import dataclass

from loratory.config.train import Optimizer
from loratory.engine.forecast.activations import KeptPerToken
from loratory.engine.forecast.model_size import ModelSize
from loratory.engine.forecast.work import PassWork
from loratory.tree.head import DEFAULT_MAX_BYTES

MIB, GIB = 2**20, 2**30
MOMENTS: Mapping[Optimizer, float] = {
    "adamw": 2.0,
    "paged_adamw": 2.0,
    "adamw_8bit": 0.5,
    "paged_adamw_8bit": 0.5,
    "sgd": 0.0,
}
"""Bytes of the optimizer's moments per byte of its parameters."""
LOGITS_COPIES = 3
"""Tensors of logits that the padded path holds at once."""
CPU_WORKSPACE = 80 * MIB
"""What BLAS, the allocator's arenas and threads hold besides tensors, on a CPU."""


@dataclass(frozen=True, slots=True)
class MemoryParts:
    """Bytes at the highest point of training.

    Attributes:
        process: The interpreter, its libraries and the rows; on a GPU the context.
        weights: Frozen weights that are not quantised.
        quantised_weights: Frozen weights in 4 or 8 bits.
        adapter: Trained numbers.
        gradients: Of these.
        optimizer: Moments.
        activations: Kept for the backward pass, and what lives in it for a moment.
        logits: Of the head.
        workspace: Buffers of libraries.
    """

    process: int
    weights: int
    quantised_weights: int
    adapter: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    workspace: int

    @property
    def fixed(self) -> int:
        """What does not depend on the rows."""
        return self.total - self.activations - self.logits

    @property
    def total(self) -> int:
        """All parts: the peak."""
        return (
            self.process
            + self.weights
            + self.quantised_weights
            + self.adapter
            + self.gradients
            + self.optimizer
            + self.activations
            + self.logits
            + self.workspace
        )


def memory_parts(
    size: ModelSize,
    kept: KeptPerToken,
    work: PassWork,
    *,
    path: str,
    optimizer: Optimizer,
    process_bytes: int,
    workspace_bytes: int = CPU_WORKSPACE,
) -> MemoryParts:
    """Sum up the parts.

    Args:
        size: The model.
        kept: What a token keeps on this path.
        work: The largest pass.
        path: The scorer's.
        optimizer: Decides the moments.
        process_bytes: Before the model is loaded.
        workspace_bytes: Buffers of libraries.
    """
    moments = int(MOMENTS[optimizer] * size.trained_bytes)
    activations = activation_bytes(size, kept, work, path=path)
    logits = logits_bytes(size, work, path=path)
    return MemoryParts(
        process=process_bytes,
        weights=size.plain_bytes,
        quantised_weights=size.quantised_bytes,
        adapter=size.trained_bytes,
        gradients=size.trained_bytes,
        optimizer=moments,
        activations=activations,
        logits=logits,
        workspace=workspace_bytes,
    )


def activation_bytes(size: ModelSize, kept: KeptPerToken, work: PassWork, *, path: str) -> int:
    """What a pass holds between its layers' forward and backward."""
    if path == "padded":
        return int(work.padded_tokens * (kept.kept_bytes + kept.moment_bytes) + kept.pass_bytes)
    tokens = work.tokens + work.root_tokens
    spared = max(0, work.tokens - work.predictors) * kept.last_rows_bytes
    probabilities = work.kept_pairs * size.num_heads * size.itemsize * size.num_layers
    return int(tokens * (kept.kept_bytes + kept.moment_bytes) - spared + probabilities + kept.pass_bytes)


def logits_bytes(size: ModelSize, work: PassWork, *, path: str) -> int:
    """What the head holds."""
    row = 4 * size.vocabulary
    if path == "padded":
        return LOGITS_COPIES * row * work.padded_logits
    buffer = min(DEFAULT_MAX_BYTES, row * work.predictors)
    return buffer * (LOGITS_COPIES if size.is_head_trained else 1) + 8 * size.width * work.predictors
