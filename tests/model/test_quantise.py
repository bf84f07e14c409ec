"""QLoRA on the CPU: a base in 4 and in 8 bits loads, answers, and lets an adapter learn."""

import sys
from pathlib import Path

import pytest
import torch

from loratory.adapter import attach_adapter
from loratory.config import AdapterConfig, ModelConfig, QuantizationConfig
from loratory.errors import AdapterError, MissingExtraError
from loratory.model import LoadedModel, load_model
from loratory.model.quantise import is_quantised, quantisation_config

WIDTHS = {
    "nf4": {"load_in_4bit": True},
    "fp4 twice": {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4", "bnb_4bit_use_double_quant": True},
    "int8": {"load_in_8bit": True},
}
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*_check_is_size:FutureWarning"),
    pytest.mark.filterwarnings("ignore:MatMul8bitLt.*inputs will be cast:UserWarning"),
]


@pytest.fixture(params=list(WIDTHS))
def quantised(request: pytest.FixtureRequest, tiny_llama_dir: Path) -> LoadedModel:
    pytest.importorskip("bitsandbytes")
    return load_model(
        ModelConfig(model_name_or_path=str(tiny_llama_dir)),
        quantization=QuantizationConfig(**WIDTHS[request.param]),
        device="cpu",
    )


def test_linears_are_packed_and_the_head_is_not(quantised: LoadedModel, tiny_llama_dir: Path) -> None:
    model = quantised.model
    assert is_quantised(model)
    assert model.model.layers[0].self_attn.q_proj.weight.dtype in (torch.uint8, torch.int8)
    assert model.lm_head.weight.dtype == torch.float32
    assert model.model.norm.weight.dtype == torch.float32


def test_answers_are_near_the_unquantised_ones(quantised: LoadedModel, tiny_llama_dir: Path) -> None:
    reference = load_model(ModelConfig(model_name_or_path=str(tiny_llama_dir)), device="cpu")
    assert quantised.identity == reference.identity
    ids_BT = torch.arange(5, 25)[None]
    with torch.no_grad():
        exact, near = reference.model(ids_BT).logits, quantised.model(ids_BT).logits
    assert torch.nn.functional.cosine_similarity(exact.flatten(), near.flatten(), dim=0) > 0.95
    assert not torch.equal(exact, near)


def test_evaluating_leaves_the_base_as_it_was(quantised: LoadedModel) -> None:
    ids_BT = torch.arange(5, 25)[None]
    before = {name: tensor.clone() for name, tensor in quantised.model.state_dict().items()}
    with torch.no_grad():
        first = quantised.model.eval()(ids_BT).logits
        trained = quantised.model.train()(ids_BT).logits
        again = quantised.model.eval()(ids_BT).logits
    assert torch.equal(first, again)
    torch.testing.assert_close(first, trained, rtol=0, atol=5e-3)
    after = quantised.model.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_adapter_learns_and_the_base_stays(quantised: LoadedModel) -> None:
    packed = quantised.model.model.layers[0].self_attn.q_proj.weight
    before = packed.detach().clone()
    attached = attach_adapter(quantised.model, AdapterConfig(rank=4), seed=0)
    model = attached.model.train()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert all(p.dtype == torch.float32 for p in trained.values())
    optimizer = torch.optim.AdamW(trained.values(), lr=2e-2)
    ids_BT = torch.arange(5, 37).reshape(2, 16)
    losses = []
    for step in range(12):
        loss = model(input_ids=ids_BT, labels=ids_BT).loss
        loss.backward()
        if step == 1:
            silent = [name for name, p in trained.items() if p.grad is None or not p.grad.abs().sum() > 0]
            assert not silent, silent
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.3, losses
    assert torch.equal(packed, before)


def test_report_counts_a_packed_weight_as_what_it_stands_for(quantised: LoadedModel, tiny_llama_dir: Path) -> None:
    plain = load_model(ModelConfig(model_name_or_path=str(tiny_llama_dir)), device="cpu")
    section = AdapterConfig(rank=4)
    found = attach_adapter(quantised.model, section, seed=0).report
    expected = attach_adapter(plain.model, section, seed=0).report
    assert (found.trainable, found.total) == (expected.trainable, expected.total)


@pytest.mark.parametrize(
    ("fields", "words"),
    [({"method": "full"}, "full fine-tuning cannot"), ({"init": "pissa"}, "pissa changes the base")],
)
def test_what_packed_weights_cannot_do(tiny_llama_dir: Path, fields: dict[str, str], words: str) -> None:
    pytest.importorskip("bitsandbytes")
    loaded = load_model(
        ModelConfig(model_name_or_path=str(tiny_llama_dir)), quantization=QuantizationConfig(load_in_4bit=True)
    )
    with pytest.raises(AdapterError, match=words):
        attach_adapter(loaded.model, AdapterConfig(**fields), seed=0)


def test_compute_dtype_follows_the_model_unless_given() -> None:
    pytest.importorskip("bitsandbytes")
    follow = quantisation_config(QuantizationConfig(load_in_4bit=True), torch.bfloat16)
    given = quantisation_config(QuantizationConfig(load_in_4bit=True, bnb_4bit_compute_dtype="float16"), torch.bfloat16)
    assert follow is not None
    assert given is not None
    assert follow.bnb_4bit_compute_dtype == torch.bfloat16
    assert given.bnb_4bit_compute_dtype == torch.float16


def test_inactive_section_is_none() -> None:
    assert quantisation_config(QuantizationConfig(), torch.float32) is None
    assert quantisation_config(None, torch.float32) is None


def test_absent_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"loratory\[quantization\]"):
        quantisation_config(QuantizationConfig(load_in_8bit=True), torch.float32)
