"""Floating-point work of a pass and of a step, and the time that a machine takes for it."""

from dataclasses import dataclass

from loratory.engine.forecast.activations import KeptPerToken
from loratory.engine.forecast.adapter_work import THIN_ONLY, AdapterWork, thin_flops, token_flops
from loratory.engine.forecast.machine import Machine, rate_at
from loratory.engine.forecast.model_size import LinearSize, ModelSize
from loratory.engine.forecast.work import PassWork, StepWork
from loratory.tree.fused.chunks import CHUNK_TOKENS

_LOGIT_PASSES = 6  # over the logits in memory: maximum, difference, exponential, sum, and the products' own
_FORWARD_SHARE = 0.4  # of what layers cost besides their products
_DEQUANTISED_TOUCHES = 3  # a quantised number is written out and read twice for each product with its weight
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

    def over(self, number: int) -> "Flops":
        """Their share of one in so many."""
        return Flops(self.linear / number, self.adapter / number, self.attention / number, self.head / number)


@dataclass(frozen=True, slots=True)
class Computation:
    """How passes are computed.

    Attributes:
        size: The model.
        path: The scorer's.
        gradient_checkpointing: Layers are computed again in the backward pass; the fused path does not do that.
        adapter_work: What the adapter does besides thin products.
    """

    size: ModelSize
    path: str
    gradient_checkpointing: bool = False
    adapter_work: AdapterWork = THIN_ONLY

    @property
    def again(self) -> int:
        """Forward passes besides the first."""
        return int(self.gradient_checkpointing and self.path != "fused")

    def num_tokens(self, work: PassWork) -> int:
        """Tokens of a pass that layers compute."""
        return work.padded_tokens if self.path == "padded" else work.tokens

    def num_rows(self, work: PassWork, layer: LinearSize) -> int:
        """Those that a linear layer sees: our last layer's output is computed for predictors only."""
        is_last = self.path == "fused" and layer.layer == self.size.num_layers - 1 and not layer.feeds_keys
        return min(work.tokens, work.predictors) if is_last else self.num_tokens(work)


def pass_flops(how: Computation, work: PassWork) -> Flops:
    """Operations of a forward and backward pass."""
    size, again = how.size, how.again
    linear = 0.0
    adapter = how.adapter_work.flops(how.num_tokens(work)) * (1 + _FORWARD_SHARE * again)
    for layer, count in size.linear_kinds:
        rows = count * how.num_rows(work, layer)
        linear += rows * _own_flops(layer, again)
        adapter += rows * _thin_flops(layer, again)
    pairs, scores = _pairs(how, work)
    attention = 2 * pairs * size.num_query_floats * size.num_layers * (scores + 2 * again)
    rows = work.padded_logits if how.path == "padded" else work.predictors
    products = 2 + size.is_head_trained * (1 + (how.path != "padded"))
    head = 2.0 * rows * size.vocabulary * size.width * products
    return Flops(linear, adapter, attention, head)


def step_flops(how: Computation, step: StepWork) -> Flops:
    """Operations of an optimizer step."""
    return sum((pass_flops(how, work) for work in _all_passes(step, how.path)), start=Flops(0, 0, 0, 0))


def step_seconds(how: Computation, kept: KeptPerToken, step: StepWork, machine: Machine) -> float:
    """Time of an optimizer step."""
    passes = sum(_pass_seconds(how, kept, work, machine) for work in _all_passes(step, how.path))
    size = how.size
    update = size.trained * _ADAM_BYTES / machine.bandwidth_bytes_per_s + size.trained_tensors * machine.tensor_s
    return passes + update + machine.step_s


def _all_passes(step: StepWork, path: str) -> tuple[PassWork, ...]:
    if path != "fused" or not step.root_tokens:
        return step.passes
    root = step.root_tokens
    return (PassWork(root, 0, 0, root * root // 2, 0, 0, 0, 0), *step.passes)


def _pass_seconds(how: Computation, kept: KeptPerToken, work: PassWork, machine: Machine) -> float:
    size, flops = how.size, pass_flops(how, work)
    seconds = _adapter_seconds(how, work, machine)
    dequantised = size.quantised * (2 + how.again) * _DEQUANTISED_TOUCHES * size.itemsize
    seconds += dequantised / machine.bandwidth_bytes_per_s
    for layer, count in size.linear_kinds:
        rows = how.num_rows(work, layer)
        if not rows:
            continue
        chunk = min(rows, CHUNK_TOKENS) if how.path == "fused" else rows
        width = (layer.inputs * layer.outputs) ** 0.5
        seconds += count * rows * _own_flops(layer, how.again) / rate_at(machine.gemm, chunk, width)
        if layer.adapter:
            rank = layer.adapter / (layer.inputs + layer.outputs)
            seconds += count * rows * _thin_flops(layer, how.again) / rate_at(machine.thin, rank, width)
    seconds += flops.attention / machine.attention_flops_per_s
    head_rows = work.padded_logits if how.path == "padded" else work.predictors
    if flops.head:
        seconds += flops.head / rate_at(machine.gemm, head_rows, (size.vocabulary * size.width) ** 0.5)
        seconds += _LOGIT_PASSES * 4 * head_rows * size.vocabulary / machine.bandwidth_bytes_per_s
    tokens, pace = how.num_tokens(work), machine.paths[how.path]
    floats = max(0.0, tokens * kept.read_bytes - max(0, tokens - work.predictors) * kept.last_rows_bytes)
    besides = floats / size.itemsize * pace.float_s + size.num_layers * pace.layer_s
    return seconds + besides * (1 + _FORWARD_SHARE * how.again)


def _adapter_seconds(how: Computation, work: PassWork, machine: Machine) -> float:
    adapter, tokens = how.adapter_work, how.num_tokens(work)
    if adapter == THIN_ONLY or not tokens:
        return 0.0
    numbers = sum(layer.inputs * layer.outputs for layer in how.size.linears) / len(how.size.linears)
    seconds = adapter.flops(tokens) / rate_at(machine.gemm, tokens, numbers**0.5)
    return (seconds + adapter.moved_per_pass / machine.bandwidth_bytes_per_s) * (1 + _FORWARD_SHARE * how.again)


def _own_flops(layer: LinearSize, again: int) -> float:
    return token_flops(layer) + 2 * layer.inputs * layer.outputs * again


def _thin_flops(layer: LinearSize, again: int) -> float:
    return thin_flops(layer) + 2 * layer.adapter * again


def _pairs(how: Computation, work: PassWork) -> tuple[float, int]:
    """Query-key pairs, and products over them."""
    if how.path == "padded":
        length = work.padded_tokens / max(1, work.padded_rows)
        return work.padded_tokens * length, 7
    return work.pairs, 6 + (work.kept_pairs < work.pairs)
