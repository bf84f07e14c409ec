"""Where a training step's time goes on CPU, next to the time its matrix products must take.

Random weights in the shapes of SmolLM2-135M with LoRA on all seven projections, fp32. The bound is measured in the
same process: every product of the step in its own shape, LoRA and head included, at the best rate this machine gives.

    python benchmarks/profile_step.py --rows 16 --template 38 --query 10:60 --answer 20:200
"""

import argparse
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import peft
import torch
import transformers
from torch.profiler import ProfilerActivity, profile

from loratory.data.sequence import TokenSequence
from loratory.tree.build import build_tree
from loratory.tree.fused.memory import keep_freed_memory
from loratory.tree.fused.scorer import FusedScorer
from loratory.tree.scorers import make_scorer
from loratory.tree.tree import TokenTree

SMOLLM2_135M = {
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "tie_word_embeddings": True,
    "max_position_embeddings": 8192,
    "rope_parameters": {"rope_type": "default", "rope_theta": 100000.0},
}


def clock() -> float:
    """Seconds: of this process's own work on one thread, so that neighbours do not count; else of the wall."""
    return time.thread_time() if torch.get_num_threads() == 1 else time.perf_counter()


@dataclass(frozen=True, slots=True)
class Product:
    """`count` products of an [m, k] by a [k, n] matrix in a step."""

    name: str
    count: int
    m: int
    n: int
    k: int

    @property
    def flops(self) -> float:
        """Of all of them."""
        return 2.0 * self.count * self.m * self.n * self.k


def make_rows(rows: int, template: int, query: range, answer: range, *, seed: int = 0) -> list[TokenSequence]:
    """Random rows: a shared template, a query, an answer that is trained on."""
    rng = np.random.default_rng(seed)
    shared = rng.integers(3, 49152, template)
    out = []
    for _ in range(rows):
        num_query, num_answer = (int(rng.integers(r.start, r.stop)) for r in (query, answer))
        ids = np.concatenate([shared, rng.integers(3, 49152, num_query + num_answer)])
        weights = np.zeros(len(ids), dtype=np.float32)
        weights[-num_answer:] = 1
        out.append(TokenSequence(ids, weights, template + num_query))
    return out


def make_model(rank: int, layers: int) -> peft.PeftModel:
    """The model with LoRA, B away from zero."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**{**SMOLLM2_135M, "num_hidden_layers": layers})
    model = transformers.LlamaForCausalLM._from_config(config, dtype=torch.float32)
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=rank, target_modules="all-linear", lora_dropout=0.0))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.01)
    return adapted.train()


def products(tree: TokenTree, rank: int, layers: int) -> list[Product]:
    """The products no exact step can do without: frozen ones forward and back, LoRA's six thin ones, the head's two."""
    width, inner = 576, 1536
    tokens, predictors = tree.num_tokens, len(torch.unique(tree.predictors_N))
    out = []
    for name, n, k, count in (
        ("q, o", width, width, 2),
        ("k, v", 192, width, 2),
        ("gate, up", inner, width, 2),
        ("down", width, inner, 1),
    ):
        out.append(Product(f"{name} forward", count * layers, tokens, n, k))
        out.append(Product(f"{name} back", count * layers, tokens, k, n))
        out.append(Product(f"{name} lora", 3 * count * layers, tokens, rank, n + k))
    out.append(Product("head forward", 1, predictors, 49152, width))
    out.append(Product("head back", 1, predictors, width, 49152))
    return out


def best_seconds(call: Callable[[], object], *, budget_s: float = 0.3) -> float:
    """Best of repeated runs within a time budget, at least three."""
    best = float("inf")
    spent = 0.0
    runs = 0
    while spent < budget_s or runs < 3:
        started = clock()
        call()
        seconds = clock() - started
        best, spent, runs = min(best, seconds), spent + seconds, runs + 1
    return best


def attention_flops(tree: TokenTree, layers: int) -> float:
    """Two products forward and four back over the exact pairs of token and path token, 576 wide."""
    return 12.0 * 576 * layers * float((tree.positions_T + 1).sum())


def bound_seconds(step: list[Product], attention_flops: float) -> float:
    """Measured time of the products; LoRA's thin ones and attention's count at the rate of the frozen ones."""
    total = wide_s = wide_flops = 0.0
    print(f"{'product':20s} {'count':>6} {'m':>6} {'n':>6} {'k':>6} {'ms':>9} {'GFLOP/s':>8}")
    for product in step:
        if product.name.endswith("lora"):
            continue
        m = min(product.m, 1024)  # rates do not change beyond, and the head's logits would be too large
        left, right = torch.randn(m, product.k), torch.randn(product.k, product.n)
        out = torch.empty(m, product.n)
        seconds = best_seconds(lambda a=left, b=right, c=out: torch.mm(a, b, out=c)) * product.count * product.m / m
        total, wide_s, wide_flops = total + seconds, wide_s + seconds, wide_flops + product.flops
        print(
            f"{product.name:20s} {product.count:6d} {product.m:6d} {product.n:6d} {product.k:6d} {seconds * 1e3:9.1f} "
            f"{product.flops / seconds / 1e9:8.1f}"
        )
    rate = wide_flops / wide_s
    thin = sum(product.flops for product in step if product.name.endswith("lora")) / rate
    mixing = attention_flops / rate
    print(f"{'lora, at that rate':48s} {thin * 1e3:9.1f}")
    print(f"{'attention, at that rate':48s} {mixing * 1e3:9.1f}")
    return total + thin + mixing


def parse_range(text: str) -> range:
    """'10:60' or '22'."""
    first, _, last = text.partition(":")
    return range(int(first), int(last or first) + 1)


def main() -> None:
    """Print bound, step time, efficiency, memory and the profile."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--template", type=int, default=38)
    parser.add_argument("--query", type=parse_range, default=range(10, 41))
    parser.add_argument("--answer", type=parse_range, default=range(20, 93))
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--layers", type=int, default=30)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--path", default="fused", choices=["fused", "tree", "padded"])
    parser.add_argument("--profile", action="store_true", help="print a table by operator")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    tree = build_tree(make_rows(arguments.rows, arguments.template, arguments.query, arguments.answer))
    model = make_model(arguments.rank, arguments.layers)
    scorer = FusedScorer(model) if arguments.path == "fused" else make_scorer(model, path=arguments.path)

    def step() -> None:
        scorer.nll(tree).sum_nats.backward()
        for parameter in trainable:
            parameter.grad = None

    assert keep_freed_memory()
    trainable = [p for p in model.parameters() if p.requires_grad]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times = []
    for _ in range(arguments.steps):
        started = clock()
        step()
        times.append(clock() - started)
    if arguments.profile:
        with profile(activities=[ProfilerActivity.CPU]) as found:
            step()
        print(found.key_averages().table(sort_by="self_cpu_time_total", row_limit=40, max_name_column_width=60))
    bound = bound_seconds(products(tree, arguments.rank, arguments.layers), attention_flops(tree, arguments.layers))
    print(f"tokens {tree.num_tokens} of {tree.num_path_tokens}, labels {len(tree.targets_N)}, path {arguments.path}")
    print("steps  " + " ".join(f"{seconds:.3f}" for seconds in times) + " s")
    print(f"bound  {bound:.3f} s")
    print(f"efficiency {bound / min(times):.2f} (best step), {bound / np.median(times):.2f} (median)")
    print(f"memory {(peak - before) / 1024:.0f} MB over weights at the peak")


if __name__ == "__main__":
    main()
