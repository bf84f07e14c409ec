"""A pruned model is a model like any other: the fused path, training, merging and answering."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftConfig, PeftModel
from rich.console import Console
from transformers import PreTrainedModel
from tree_batches import deep_batch, template_batch

from loratory.adapter import attach_adapter
from loratory.adapter.certificate import FILE_NAME
from loratory.adapter.merge import merge_adapter
from loratory.config import AdapterConfig, ModelConfig, RunConfig
from loratory.data.sequence import TokenSequence
from loratory.engine.training import run_training
from loratory.errors import AdapterError
from loratory.infer.session import open_session
from loratory.model import load_model
from loratory.model.shapes import LayerShape, ModelShapes
from loratory.model.uneven import build_uneven, save_uneven, shapes_of
from loratory.run import read_metrics
from loratory.tree.build import build_tree
from loratory.tree.fused.scorer import FusedScorer
from loratory.tree.padded import PaddedScorer
from loratory.tree.scorer import Scorer
from loratory.tree.scorers import make_scorer

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # PEFT's

# Odd widths, one head group, and another number of query heads per key-value head.
LAYERS = (LayerShape(4, 2, 37), LayerShape(3, 1, 64))


def uneven(model: PreTrainedModel) -> PreTrainedModel:
    whole = shapes_of(model)
    torch.manual_seed(1)
    return build_uneven(model.config, ModelShapes(whole.hidden_size, whole.vocab_size, whole.head_dim, LAYERS, (0, 1)))


@pytest.fixture(scope="session")
def uneven_dir(tiny_llama_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = load_model(ModelConfig(model_name_or_path=str(tiny_llama_dir), dtype="float32"), device="cpu")
    folder = tmp_path_factory.mktemp("uneven") / "model"
    save_uneven(uneven(base.model), folder, base.tokenizer)
    return folder


def adapted(model: PreTrainedModel) -> PeftModel:
    attached = attach_adapter(model, AdapterConfig(rank=4), seed=0).model
    assert isinstance(attached, PeftModel)
    generator = torch.Generator().manual_seed(3)
    for name, parameter in attached.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.1, generator=generator)
    return attached


def outcome(scorer: Scorer, model: PeftModel, batch: list[TokenSequence]) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss = scorer.nll(build_tree(batch, min_saved_tokens=4)).sum_nats
    loss.backward()
    grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return {"loss": loss.detach(), **grads}


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3", "gemma"])
@pytest.mark.parametrize("make_batch", [deep_batch, template_batch])
def test_the_fused_path_equals_the_padded_twin(
    family: str, make_batch: Callable[[int], list[TokenSequence]], tiny_model_dir: Callable[[str], Path]
) -> None:
    section = ModelConfig(model_name_or_path=str(tiny_model_dir(family)), dtype="float32")
    model = adapted(uneven(load_model(section, device="cpu").model))
    assert make_scorer(model).path == "fused"
    got, want = (outcome(scorer, model, make_batch(200)) for scorer in (FusedScorer(model), PaddedScorer(model)))
    assert got.keys() == want.keys()
    assert len(want) == 1 + 2 * 7 * 2
    for name, expected in want.items():
        error = float((got[name] - expected).norm() / expected.norm().clamp_min(1e-12))
        assert error < 1e-5, f"{name}: relative error {error:.1e}"


def test_a_whole_run_merge_and_answers(uneven_dir: Path, tmp_path: Path) -> None:
    rows = [{"instruction": f"question {i % 4}", "output": f"answer {i % 4}"} for i in range(16)]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    config = RunConfig.model_validate(
        {
            "model": {"model_name_or_path": str(uneven_dir)},
            "data": {"train": str(tmp_path / "rows.json"), "template": "alpaca"},
            "adapter": {"rank": 4},
            "train": {"batch_size": 8, "max_steps": 4, "learning_rate": 0.02, "num_threads": 1},
            "run": {"output_dir": str(tmp_path), "name": "run"},
        }
    )
    result = run_training(config, console=Console(quiet=True))
    losses = [line["loss"] for line in read_metrics(result.run_dir / "metrics.jsonl")]
    assert losses[-1] < losses[0]
    certificate = merge_adapter(config.model, result.final_model, tmp_path / "merged")
    assert (tmp_path / "merged" / FILE_NAME).is_file()
    assert certificate.measured.max_logit_difference < 1e-4
    merged = ModelConfig(model_name_or_path=str(tmp_path / "merged"))
    assert shapes_of(load_model(merged, device="cpu").model).layers == LAYERS
    prompt = [list(range(5, 20))]
    answers = [
        open_session(base, adapter, "alpaca").generate(prompt, max_new_tokens=8)
        for base, adapter in ((merged, None), (config.model, result.final_model))
    ]
    assert answers[0] == answers[1]
    by_transformers = load_model(merged, device="cpu").model.generate(
        torch.tensor(prompt), attention_mask=torch.ones(1, 15), max_new_tokens=8, do_sample=False
    )
    new = by_transformers[0, 15:].tolist()
    assert new[: len(answers[0][0])] == answers[0][0]


def test_a_full_run_keeps_the_widths(uneven_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text(json.dumps([{"instruction": "a", "output": "b"}] * 4))
    config = RunConfig.model_validate(
        {
            "model": {"model_name_or_path": str(uneven_dir)},
            "data": {"train": str(tmp_path / "rows.json"), "template": "alpaca"},
            "adapter": {"method": "full"},
            "train": {"max_steps": 1, "num_threads": 1},
            "run": {"output_dir": str(tmp_path), "name": "run"},
        }
    )
    result = run_training(config, console=Console(quiet=True))
    loaded = load_model(ModelConfig(model_name_or_path=str(result.final_model)), device="cpu")
    assert shapes_of(loaded.model).layers == LAYERS


def test_a_layer_that_would_train_nothing_is_named(uneven_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PEFT makes empty parameters for some methods and odd widths, such as OFT's (131, 0); here LoRA is made to."""
    import loratory.adapter.attach as attach

    real = attach.put_on

    def with_an_empty_layer(model: PreTrainedModel, config: PeftConfig, **options: str) -> PeftModel:
        made = real(model, config, **options)
        layer = made.get_submodule("base_model.model.model.layers.0.mlp.down_proj")
        for part in (layer.lora_A, layer.lora_B):
            part["default"].weight = torch.nn.Parameter(torch.empty(37, 0))
        return made

    monkeypatch.setattr(attach, "put_on", with_an_empty_layer)
    model = load_model(ModelConfig(model_name_or_path=str(uneven_dir), dtype="float32"), device="cpu").model
    with pytest.raises(AdapterError, match=r"1 targeted layers would train nothing \(first: .*layers.0.mlp.down_proj"):
        attach_adapter(model, AdapterConfig(rank=4), seed=0)
