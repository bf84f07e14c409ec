"""Floating-point work of a pass and of a step, and the time that a machine takes for it."""

from dataclasses import dataclass

from loratory.engine.forecast.activations import KeptPerToken
from loratory.engine.forecast.machine import Machine, rate_at
from loratory.engine.forecast.model_size import LinearSize, ModelSize
from loratory.engine.forecast.work import PassWork, StepWork
from loratory.tree.fused.chunks import CHUNK_TOKENS

_LOGIT_PASSES = 6  # over the logits in memory: maximum, difference, exponential, sum, and the products' own
_FORWARD_SHARE = 0.4  # of what layers cost besides their products
_ADAM_BYTES = 28  # read and written per number: parameter, gradient, two moments


@dataclass(frozen=True, slots=True)
class Flops:
    """Floating-point operations, a multiplication and an addition counted as two.

    Attributes:
        linear: With the body's own weights.
        adapter: With an adapter's.
        attention: Scores and mixtures.
        head: Logits.
    """

    linear: float
    adapter: float
    attention: float
    head: float

    @property
    def total(self) -> float:
        """All of them."""
        return self.linear + self.adapter + self.attention + self.head

    def __add__(self, other: "Flops") -> "Flops":
        return Flops(
            self.linear + other.linear,
            self.adapter + other.adapter,
            self.attention + other.attention,
            self.head + other.head,
        )


def pass_flops(size: ModelSize, work: PassWork, *, path: str, gradient_checkpointing: bool = False) -> Flops:
    """Operations of a forward and backward pass."""
    forward_again = 1 if gradient_checkpointing and path != "fused" else 0
    linear = adapter = 0.0
    for layer in size.linears:
        rows = _rows(layer, size, work, path)
        linear += 2 * rows * layer.inputs * layer.outputs * (_products(layer) + forward_again)
        adapter += 2 * rows * layer.adapter * (3 + forward_again)
    pairs, scores = _pairs(work, path)
    attention = 2 * pairs * size.num_query_floats * size.num_layers * (scores + 2 * forward_again)
    rows = work.padded_logits if path == "padded" else work.predictors
    products = 2 if path != "padded" and not size.is_head_trained else 3 + (path != "padded")
    products = 2 if path == "padded" and not size.is_head_trained else products
    head = 2.0 * rows * size.vocabulary * size.width * products
    return Flops(linear, adapter, attention, head)


def step_flops(size: ModelSize, step: StepWork, *, path: str, gradient_checkpointing: bool = False) -> Flops:
    """Operations of an optimizer step."""
    total = Flops(0, 0, 0, 0)
    for work in _all_passes(step, path):
        total += pass_flops(size, work, path=path, gradient_checkpointing=gradient_checkpointing)
    return total


def step_seconds(
    size: ModelSize,
    kept: KeptPerToken,
    step: StepWork,
    machine: Machine,
    *,
    path: str,
    gradient_checkpointing: bool = False,
) -> float:
    """Time of an optimizer step."""
    again = gradient_checkpointing and path != "fused"
    passes = sum(
        _pass_seconds(size, kept, work, machine, path=path, forward_again=again) for work in _all_passes(step, path)
    )
    update = size.trained * _ADAM_BYTES / machine.bandwidth_bytes_per_s + size.trained_tensors * machine.tensor_s
    return passes + update + machine.step_s


def _all_passes(step: StepWork, path: str) -> tuple[PassWork, ...]:
    if path != "fused" or not step.root_tokens:
        return step.passes
    root = step.root_tokens
    return (PassWork(root, 0, 0, root * root // 2, 0, 0, 0, 0), *step.passes)


def _pass_seconds(
    size: ModelSize, kept: KeptPerToken, work: PassWork, machine: Machine, *, path: str, forward_again: bool
) -> float:
    flops = pass_flops(size, work, path=path, gradient_checkpointing=forward_again)
    seconds = 0.0
    for layer in size.linears:
        rows = _rows(layer, size, work, path)
        if not rows:
            continue
        chunk = min(rows, CHUNK_TOKENS) if path == "fused" else rows
        width = (layer.inputs * layer.outputs) ** 0.5
        own = 2 * rows * layer.inputs * layer.outputs * (_products(layer) + forward_again)
        seconds += own / rate_at(machine.gemm, chunk, width)
        if layer.adapter:
            rank = layer.adapter / (layer.inputs + layer.outputs)
            seconds += 2 * rows * layer.adapter * (3 + forward_again) / rate_at(machine.thin, rank, width)
    seconds += flops.attention / machine.attention_flops_per_s
    head_rows = work.padded_logits if path == "padded" else work.predictors
    if flops.head:
        seconds += flops.head / rate_at(machine.gemm, head_rows, (size.vocabulary * size.width) ** 0.5)
        seconds += _LOGIT_PASSES * 4 * head_rows * size.vocabulary / machine.bandwidth_bytes_per_s
    tokens = work.padded_tokens if path == "padded" else work.tokens
    pace = machine.paths[path]
    floats = max(0.0, tokens * kept.read_bytes - max(0, tokens - work.predictors) * kept.last_rows_bytes)
    besides = floats / size.itemsize * pace.float_s + size.num_layers * pace.layer_s
    return seconds + besides * (1 + _FORWARD_SHARE * forward_again)


def _rows(layer: LinearSize, size: ModelSize, work: PassWork, path: str) -> int:
    """Tokens that a linear layer sees: the last layer's output is needed for predictors only."""
    if path == "padded":
        return work.padded_tokens
    is_last = path == "fused" and layer.layer == size.num_layers - 1 and not layer.feeds_keys
    return min(work.tokens, work.predictors) if is_last else work.tokens


def _products(layer: LinearSize) -> int:
    """Products with a weight: output, gradient of the input, and that of the weight if it is trained."""
    return 3 if layer.is_trained else 2


def _pairs(work: PassWork, path: str) -> tuple[float, int]:
    """Query-key pairs, and products over them."""
    if path == "padded":
        length = work.padded_tokens / max(1, work.padded_rows)
        return work.padded_tokens * length, 7
    return work.pairs, 6 + (work.kept_pairs < work.pairs)
