"""The lower bound of a step: its matrix products alone, at the shapes and sizes of the work, back to back.

Counted are the products that training LoRA on unique tokens cannot do without: forward and input gradient of every
linear layer, the four thin products of each adapter pair, and logits and their gradient at supervised positions.
Attention, norms, rotary embedding, activation and optimizer are free in this bound. `… WORK UNIQUE LABELS RESULT`.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import AutoConfig

from benchmarks.measure import Meter
from benchmarks.work import RANK, Work

REPEATS = 5


def main() -> None:
    """Time one step's products; the measurement's step is one optimizer step."""
    parser = argparse.ArgumentParser()
    parser.add_argument("work", type=Path)
    parser.add_argument("unique_tokens", type=float, help="per optimizer step")
    parser.add_argument("labels", type=float, help="per optimizer step")
    parser.add_argument("result", type=Path)
    arguments = parser.parse_args()
    work = Work.read(arguments.work)
    torch.set_num_threads(work.num_threads)
    num_tokens, num_labels = round(arguments.unique_tokens), round(arguments.labels)
    config = AutoConfig.from_pretrained(work.model)
    width, inner, num_layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    head_width = getattr(config, "head_dim", None) or width // config.num_attention_heads
    queries, keys = config.num_attention_heads * head_width, config.num_key_value_heads * head_width
    linears = [(width, queries), (width, keys), (width, keys), (queries, width)]
    linears += [(width, inner), (width, inner), (inner, width)]

    meter = Meter()
    meter.begin([])
    with torch.no_grad():
        layer_s = sum(_linear_s(num_tokens, *shape) for shape in linears)
        head_s = _head_s(num_labels, width, config.vocab_size)
    num_flop = 4 * num_tokens * num_layers * sum(i * o for i, o in linears)
    seconds = layer_s * num_layers + head_s
    notes = {"layers_s": layer_s * num_layers, "head_s": head_s, "gflops": num_flop / layer_s / num_layers / 1e9}
    meter.finish(arguments.result, step_seconds=[seconds], notes=notes)


def _linear_s(num_tokens: int, num_in: int, num_out: int) -> float:
    """Seconds of one adapted linear layer, forward and backward, outputs in buffers made before."""
    x, y = torch.randn(num_tokens, num_in), torch.randn(num_tokens, num_out)
    weight, a, b = torch.randn(num_out, num_in), torch.randn(RANK, num_in), torch.randn(num_out, RANK)
    u, v = torch.empty(num_tokens, RANK), torch.empty(num_tokens, RANK)
    dx, dy, da, db = torch.empty_like(x), torch.randn_like(y), torch.empty_like(a), torch.empty_like(b)

    def products() -> None:
        torch.mm(x, weight.t(), out=y)
        torch.mm(x, a.t(), out=u)
        y.addmm_(u, b.t())
        torch.mm(dy, weight, out=dx)
        torch.mm(dy, b, out=v)
        dx.addmm_(v, a)
        torch.mm(dy.t(), u, out=db)
        torch.mm(v.t(), x, out=da)

    return _best_s(products)


def _head_s(num_labels: int, width: int, num_vocab: int) -> float:
    """Seconds of logits and their gradient, in chunks of at most 64 MiB."""
    rows = max(1, min(num_labels, 2**26 // (4 * num_vocab)))
    hidden, weight = torch.randn(rows, width), torch.randn(num_vocab, width)
    logits, grad = torch.empty(rows, num_vocab), torch.empty(rows, width)

    def products() -> None:
        torch.mm(hidden, weight.t(), out=logits)
        torch.mm(logits, weight, out=grad)

    return _best_s(products) * num_labels / rows


def _best_s(products: Callable[[], None]) -> float:
    seconds = []
    for _ in range(REPEATS):
        start_s = time.perf_counter()
        products()
        seconds.append(time.perf_counter() - start_s)
    return min(seconds)


if __name__ == "__main__":
    main()
