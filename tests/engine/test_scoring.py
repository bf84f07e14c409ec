import pytest
import torch
from accelerate import Accelerator
from test_step import rows
from transformers import LlamaForCausalLM

from loratory.adapter import attach_adapter
from loratory.config import AdapterConfig, TrainConfig
from loratory.engine.micro_batching import MicroBatching
from loratory.engine.optimizer import make_optimizer, trainable_parameters
from loratory.engine.ranks import Ranks
from loratory.engine.scoring import choose_scorer
from loratory.engine.step import TrainStep
from loratory.objective import SftObjective
from loratory.objective.row import batch_of
from loratory.tree.padded import PaddedScorer
from loratory.tree.scorer import Scorer

CPU = torch.device("cpu")


def adapted(model: LlamaForCausalLM, *, dropout: float = 0.0) -> torch.nn.Module:
    attached = attach_adapter(model, AdapterConfig(rank=2, targets="all", dropout=dropout), seed=0).model
    torch.manual_seed(1)
    for name, parameter in trainable_parameters(attached).items():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    return attached


def gradients(model: torch.nn.Module, scorer: Scorer, dtype: torch.dtype | None) -> torch.Tensor:
    parameters = trainable_parameters(model)
    for parameter in parameters.values():
        parameter.grad = None
    step = TrainStep(
        scorer,
        SftObjective(),
        parameters=parameters,
        optimizer=make_optimizer(trainable_parameters(model), TrainConfig()),
        ranks=Ranks(Accelerator(cpu=True)),
        micro_batching=MicroBatching(None, None),
        max_grad_norm=1.0,
        autocast_dtype=dtype,
    )
    step.scale.value = 1.0
    some = rows()
    step.backward(batch_of(some), sum(row.count for row in some))
    return torch.cat([p.grad.flatten() for p in parameters.values() if p.grad is not None])


@pytest.mark.parametrize(
    ("section", "path"),
    [
        ({}, "fused"),
        ({"precision": "bfloat16"}, "tree"),
        ({"precision": "float16"}, "tree"),
        ({"gradient_checkpointing": True}, "tree"),
    ],
    ids=str,
)
def test_the_path_follows_the_section(tiny_llama: LlamaForCausalLM, section: dict[str, object], path: str) -> None:
    scorer = choose_scorer(adapted(tiny_llama), TrainConfig.model_validate(section), CPU)
    assert scorer.path == path
    if section:
        assert next(iter(section)) in scorer.reason


def test_mixed_precision_off_the_cpu_and_dropout_are_padded(tiny_llama: LlamaForCausalLM) -> None:
    model = adapted(tiny_llama, dropout=0.1)
    model.train()
    assert choose_scorer(model, TrainConfig(precision="bfloat16"), CPU).path == "padded"
    assert choose_scorer(model, TrainConfig(gradient_checkpointing=True), CPU).path == "padded"
    model = adapted(model.unload())
    assert choose_scorer(model, TrainConfig(precision="bfloat16"), torch.device("cuda")).path == "padded"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_mixed_precision_on_the_tree_is_the_padded_twins_within_its_rounding(
    tiny_llama: LlamaForCausalLM, dtype: torch.dtype
) -> None:
    model = adapted(tiny_llama)
    section = TrainConfig(precision="bfloat16" if dtype == torch.bfloat16 else "float16")
    exact = gradients(model, PaddedScorer(model), None)
    twin = gradients(model, PaddedScorer(model), dtype)
    tree = gradients(model, choose_scorer(model, section, CPU), dtype)
    rounding = (twin - exact).norm() / exact.norm()
    assert 0 < (tree - exact).norm() / exact.norm() < 2 * rounding
