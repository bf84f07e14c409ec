"""Some seconds of measuring: what this machine does with the products, the memory and the layers of training."""

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, harmonic_mean

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from loratory.adapter import attach_adapter
from loratory.config import AdapterConfig
from loratory.data.sequence import TokenSequence
from loratory.engine.forecast.activations import KeptPerToken, kept_per_token
from loratory.engine.forecast.duration import Computation, step_seconds
from loratory.engine.forecast.machine import Machine, PathPace, Rate, fingerprint
from loratory.engine.forecast.model_size import ModelSize, model_size
from loratory.engine.forecast.work import PassWork, StepWork, pass_work
from loratory.engine.gradients import scale_to_norm, total_norm
from loratory.objective.row import Row, batch_of
from loratory.tree.fused.memory import keep_freed_memory
from loratory.tree.scorers import ScorerPath, make_scorer

ROWS, WIDTHS = (16, 64, 256, 512), (64, 128, 256, 576, 1024, 2048)
RANKS, THIN_WIDTHS = (4, 16, 64), (64, 256, 576, 2048)
PATHS: tuple[ScorerPath, ...] = ("fused", "tree", "padded")
_CELL_S = 0.02
_ROUNDS = 2
# Width, that of the MLP, layers, rows, tokens of a row: one that calls and launches bound, one that memory does.
_SHAPES = ((64, 128, 4, 2, 32), (512, 1408, 2, 3, 128))
_PROCESS = (
    "from loratory.engine.libraries import load_libraries; load_libraries();"
    "import loratory.engine.training, psutil, torch, json;"
    "from accelerate import Accelerator; Accelerator();"
    "x = torch.zeros(256, 256); (x @ x).sum();"
    "print(json.dumps(psutil.Process().memory_info().rss))"
)


def calibrate() -> Machine:
    """Measure this machine with torch's present number of threads."""
    keep_freed_memory()
    state = torch.get_rng_state()
    try:
        torch.manual_seed(0)
        return _measure()
    finally:
        torch.set_rng_state(state)


def process_bytes() -> int:
    """Memory of a fresh training process before its model is loaded."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", _PROCESS], capture_output=True, text=True, check=True, env=environment)
    return int(json.loads(done.stdout.splitlines()[-1]))


def _measure() -> Machine:
    """Everything twice, some seconds apart, and the middle of both: runs meet the bursts of a shared machine too."""
    threads = torch.get_num_threads()
    rounds = [_round() for _ in range(_ROUNDS)]
    bare = Machine(
        name=f"{platform.node()}, {threads} threads",
        fingerprint=fingerprint(threads),
        process_bytes=process_bytes(),
        gemm=tuple(_middle(same) for same in zip(*(each.gemm for each in rounds), strict=True)),
        thin=tuple(_middle(same) for same in zip(*(each.thin for each in rounds), strict=True)),
        attention_flops_per_s=harmonic_mean([each.attention_flops_per_s for each in rounds]),
        bandwidth_bytes_per_s=harmonic_mean([each.bandwidth_bytes_per_s for each in rounds]),
        paths=dict.fromkeys(PATHS, PathPace(0.0, 0.0)),
        step_s=0.0,
        tensor_s=fmean(each.tensor_s for each in rounds),
    )
    return replace(bare, paths={path: _pace(path, bare, [each.passes[path] for each in rounds]) for path in PATHS})


@dataclass(frozen=True, slots=True)
class _Round:
    """What was measured at one time; `passes` are seconds of each of `_SHAPES`, by path."""

    gemm: tuple[Rate, ...]
    thin: tuple[Rate, ...]
    attention_flops_per_s: float
    bandwidth_bytes_per_s: float
    tensor_s: float
    passes: Mapping[ScorerPath, tuple["_TimedPass", ...]]


def _round() -> _Round:
    block = torch.ones(8_000_000)
    other = torch.ones_like(block)
    left, right = torch.randn(24, 128, 64), torch.randn(24, 64, 128)
    attention_s = _seconds(lambda: torch.softmax(torch.bmm(left, right), dim=-1))
    return _Round(
        gemm=tuple(_gemm(rows, width) for rows in ROWS for width in WIDTHS),
        thin=tuple(_thin(rank, width) for rank in RANKS for width in THIN_WIDTHS),
        attention_flops_per_s=2 * 24 * 128 * 128 * 64 / attention_s,
        bandwidth_bytes_per_s=3 * block.numel() * 4 / _seconds(lambda: torch.add(block, other, out=other)),
        tensor_s=_tensor_seconds(),
        passes={path: tuple(_timed_pass(path, *shape) for shape in _SHAPES) for path in PATHS},
    )


def _middle(same: Sequence[Rate]) -> Rate:
    """The speed at the mean time."""
    return replace(same[0], flops_per_s=harmonic_mean([each.flops_per_s for each in same]))


def _gemm(rows: int, width: int) -> Rate:
    x, w = torch.randn(rows, width), torch.randn(width, width)
    out = torch.empty(rows, width)
    return Rate(rows, width, 2 * rows * width * width / _seconds(lambda: torch.mm(x, w.t(), out=out)))


def _thin(rank: int, width: int) -> Rate:
    x, a, b = torch.randn(256, width), torch.randn(rank, width), torch.randn(width, rank)
    out = torch.zeros(256, width)

    def products() -> None:
        u = torch.mm(x, a.t())
        out.addmm_(u, b.t())
        torch.mm(u.t(), x)

    return Rate(rank, width, 3 * 2 * 256 * rank * width / _seconds(products))


def _tensor_seconds() -> float:
    parameters = {str(i): torch.nn.Parameter(torch.randn(8, 64)) for i in range(128)}
    for p in parameters.values():
        p.grad = torch.randn_like(p)
    optimizer = torch.optim.AdamW(parameters.values(), fused=True)

    def update() -> None:
        scale_to_norm(parameters, 1.0, total_norm(parameters))
        optimizer.step()

    return _seconds(update) / len(parameters)


@dataclass(frozen=True, slots=True)
class _TimedPass:
    """A forward and backward pass of the engine, and what it was made of."""

    size: ModelSize
    kept: KeptPerToken
    work: PassWork
    seconds: float


def _timed_pass(path: ScorerPath, width: int, middle: int, layers: int, num_rows: int, length: int) -> _TimedPass:
    model, size, kept = _small_model(path, width=width, middle=middle, layers=layers)
    rows = _rows(num_rows, length)
    scorer = make_scorer(model, path=path)

    def one_pass() -> None:
        scorer.nll(batch_of(rows).tree).sum_nats.backward()  # type: ignore[no-untyped-call]

    return _TimedPass(size, kept, pass_work(rows), _seconds(one_pass, at_least=5))


def _pace(path: ScorerPath, bare: Machine, rounds: Sequence[Sequence[_TimedPass]]) -> PathPace:
    """Solve the narrow and the wide pass for what layers and numbers cost."""
    known = replace(bare, tensor_s=0.0)
    equations, rests = [], []
    for same in zip(*rounds, strict=True):
        size, kept, work = same[0].size, same[0].kept, same[0].work
        step = StepWork((work,), 0, work.tokens)
        measured = fmean(each.seconds for each in same)
        rests.append(max(0.0, measured - step_seconds(Computation(size, path), kept, step, known)))
        tokens = work.padded_tokens if path == "padded" else work.tokens
        equations.append((float(size.num_layers), tokens * kept.kept_bytes / size.itemsize))
    solution = np.linalg.solve(np.array(equations), np.array(rests))
    layer_s, float_s = float(solution[0]), float(solution[1])
    if float_s < 0:
        layer_s, float_s = rests[0] / equations[0][0], 0.0
    if layer_s < 0:
        layer_s, float_s = 0.0, rests[1] / equations[1][1]
    return PathPace(layer_s, float_s)


def _small_model(path: str, *, width: int, middle: int, layers: int) -> tuple[torch.nn.Module, ModelSize, KeptPerToken]:
    config = LlamaConfig(
        hidden_size=width,
        intermediate_size=middle,
        num_hidden_layers=layers,
        num_attention_heads=width // 16 if width < 128 else width // 64,
        num_key_value_heads=2,
        vocab_size=512,
        tie_word_embeddings=True,
        max_position_embeddings=256,
        attn_implementation="sdpa",
    )
    model = attach_adapter(LlamaForCausalLM(config), AdapterConfig(rank=8), seed=0).model
    model.train()
    base = model.get_base_model()
    size = model_size(model)
    if path != "fused":
        make_scorer(model, path="tree" if path == "tree" else "padded")
    return (
        model,
        size,
        kept_per_token(base, size, path=path, gradient_checkpointing=False, is_mixed=False, on_cpu=False),
    )


def _rows(count: int, length: int) -> list[Row]:
    generator = np.random.default_rng(0)
    rows = []
    for index in range(count):
        weights = np.zeros(length, dtype=np.float32)
        weights[length // 2 :] = 1.0
        tokens = generator.integers(0, 512, length)
        rows.append(Row((TokenSequence(tokens, weights, length // 2),), f"calibration:{index}", float(weights.sum())))
    return rows


def _seconds(work: Callable[[], object], *, at_least: int = 3) -> float:
    """Median time of one call."""
    work()
    taken: list[float] = []
    start = time.perf_counter()
    while len(taken) < at_least or time.perf_counter() - start < _CELL_S:
        begin = time.perf_counter()
        work()
        taken.append(time.perf_counter() - begin)
    return float(np.median(taken))
