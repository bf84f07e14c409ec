"""Every method of the installed PEFT: attached, trained a little, saved, loaded by us and by PEFT alone."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import LlamaForCausalLM

from loratory.adapter import attach_adapter, check_adapter, load_adapter, read_adapter, save_adapter
from loratory.config import AdapterConfig
from loratory.config.method_capabilities import capabilities
from loratory.config.method_catalogue import REFUSED, method_names
from loratory.errors import AdapterError

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*is_gradient_checkpointing:FutureWarning",
    "ignore:Failed to load the CUDA extension",
    "ignore:Unsupported layer",
    "ignore:Setting boft_n",
    "ignore:Sparse invariant",
)
BASE = "b" * 64
OPTIONS: dict[str, dict[str, Any]] = {name: facts["options"] for name, facts in capabilities().items()}
METHODS = [name for name in method_names() if name not in ("full", "beft")]  # beft: for layers with a bias
IDS = torch.randint(5, 300, (2, 7), generator=torch.Generator().manual_seed(1))


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS, attention_mask=torch.ones_like(IDS)).logits[:, -IDS.shape[1] :]  # type: ignore[no-any-return]


def section(method: str, **fields: Any) -> AdapterConfig:
    return AdapterConfig(method=method, options=OPTIONS.get(method, {}), **fields)


def moved(model: torch.nn.Module) -> torch.nn.Module:
    """Every trained number a little elsewhere, as after training."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


@pytest.mark.parametrize("method", METHODS)
def test_what_is_saved_is_what_is_loaded(method: str, tiny_llama: LlamaForCausalLM, tmp_path: Path) -> None:
    original = copy.deepcopy(tiny_llama)
    attached = attach_adapter(tiny_llama, section(method), seed=0)
    model = moved(attached.model)
    assert isinstance(model, PeftModel)
    assert attached.report.trainable == sum(p.numel() for p in model.parameters() if p.requires_grad) > 0
    expected = logits(model)
    assert (expected - logits(original)).abs().max() > 1e-6 or method == "trainable_tokens"
    save_adapter(model, tmp_path, base_identity=BASE)
    assert read_adapter(tmp_path).config.method == method
    ours = load_adapter(copy.deepcopy(original), tmp_path, trainable=False, base_identity=BASE)
    assert torch.equal(logits(ours), expected)
    plain = PeftModel.from_pretrained(copy.deepcopy(original), str(tmp_path)).eval()
    torch.testing.assert_close(logits(plain), expected, rtol=0, atol=1e-6)
    if method == "p_tuning":  # PEFT saves the prompts that its encoder made, without the encoder
        with pytest.raises(AdapterError, match="without the encoder"):
            attach_adapter(copy.deepcopy(original), AdapterConfig(method=method, path=str(tmp_path)), seed=5)
        return
    again = attach_adapter(copy.deepcopy(original), AdapterConfig(method=method, path=str(tmp_path)), seed=5)
    assert again.report.trainable == attached.report.trainable
    torch.testing.assert_close(logits(again.model.eval()), expected, rtol=0, atol=0)


@pytest.mark.parametrize("method", METHODS)
def test_counts_without_weights_are_exact(method: str, tiny_llama: LlamaForCausalLM) -> None:
    with torch.device("meta"):
        empty = LlamaForCausalLM(tiny_llama.config)
    assert check_adapter(section(method), empty) == attach_adapter(tiny_llama, section(method), seed=0).report


@pytest.mark.parametrize("method", METHODS)
def test_the_seed_alone_decides_the_start(method: str, tiny_llama: LlamaForCausalLM) -> None:
    found = []
    for _ in range(2):
        torch.rand(3)
        model = attach_adapter(copy.deepcopy(tiny_llama), section(method), seed=4).model
        found.append({name: p for name, p in model.named_parameters() if p.requires_grad})
    for name, parameter in found[0].items():
        assert torch.equal(parameter, found[1][name]), name


@pytest.mark.parametrize("method", sorted(REFUSED))
def test_methods_that_a_run_cannot_be_faithful_to_are_refused_in_the_configuration(method: str) -> None:
    with pytest.raises(ValueError, match=f"{method} cannot be trained here"):
        AdapterConfig(method=method)


def test_a_method_without_a_layer_for_it_is_refused(tiny_llama: LlamaForCausalLM) -> None:
    with pytest.raises(AdapterError, match="no layer that beft could adapt; try lora"):
        attach_adapter(tiny_llama, AdapterConfig(method="beft"), seed=0)


def test_an_impossible_block_is_told_without_weights(tiny_llama: LlamaForCausalLM) -> None:
    with torch.device("meta"):
        empty = LlamaForCausalLM(tiny_llama.config)
    with pytest.raises(AdapterError, match=r"adapter\.method: c3a cannot be put on LlamaForCausalLM"):
        check_adapter(AdapterConfig(method="c3a", options={"block_size": 7}), empty)
