"""Adapters of models with a classification head: the head goes along, and plain PEFT gets the same scores."""

from pathlib import Path

import pytest
import torch
from peft import AutoPeftModelForSequenceClassification, PeftModel
from transformers import AutoModelForSequenceClassification

from loratory.adapter import attach_adapter, load_adapter, save_adapter
from loratory.config import AdapterConfig, ModelConfig
from loratory.errors import AdapterError
from loratory.model import LoadedModel, load_model
from loratory.model.task import ClassHead

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

IDS = torch.tensor([[7, 8, 9, 10, 11]])


def loaded(folder: Path, seed: int = 3) -> LoadedModel:
    return load_model(ModelConfig(model_name_or_path=str(folder)), head=ClassHead(("a", "b"), seed=seed))


def trained(base: LoadedModel, **options: object) -> PeftModel:
    section = AdapterConfig(rank=2, **options)
    attached = attach_adapter(base.model, section, seed=1, new_modules=base.new_modules)
    assert isinstance(attached.model, PeftModel)
    generator = torch.Generator().manual_seed(5)
    for parameter in attached.model.parameters():
        if parameter.requires_grad:
            parameter.data.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return attached.model.eval()


def test_the_head_is_trained_and_saved_and_not_adapted(tiny_llama_dir: Path, tmp_path: Path) -> None:
    base = loaded(tiny_llama_dir)
    model = trained(base)
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    assert [name for name in names if "lora" not in name] == ["base_model.model.score.modules_to_save.default.weight"]
    assert not any("score" in name and "lora" in name for name in names)
    save_adapter(model, tmp_path, base_identity=base.identity)
    expected = model(input_ids=IDS).logits
    plain = AutoModelForSequenceClassification.from_pretrained(tiny_llama_dir, num_labels=2)
    torch.testing.assert_close(PeftModel.from_pretrained(plain, tmp_path)(input_ids=IDS).logits, expected)
    auto = AutoPeftModelForSequenceClassification.from_pretrained(tmp_path, num_labels=2)
    torch.testing.assert_close(auto(input_ids=IDS).logits, expected)
    again = load_adapter(loaded(tiny_llama_dir, seed=9).model, tmp_path, trainable=False, base_identity=base.identity)
    torch.testing.assert_close(again(input_ids=IDS).logits, expected)


def test_a_text_adapter_is_merged_below_a_new_head(tiny_llama_dir: Path, tmp_path: Path) -> None:
    text = load_model(ModelConfig(model_name_or_path=str(tiny_llama_dir)))
    save_adapter(trained(text), tmp_path / "text", base_identity=text.identity)
    base = loaded(tiny_llama_dir)
    with pytest.raises(AdapterError, match=r"is for task CAUSAL_LM, .*create_new_adapter: true"):
        attach_adapter(loaded(tiny_llama_dir).model, AdapterConfig(path=str(tmp_path / "text")), seed=1)
    model = trained(base, path=str(tmp_path / "text"), create_new_adapter=True)
    save_adapter(model, tmp_path / "both", base_identity=base.identity)
    again = load_adapter(loaded(tiny_llama_dir).model, tmp_path / "both", trainable=False, base_identity=base.identity)
    torch.testing.assert_close(again(input_ids=IDS).logits, model(input_ids=IDS).logits, rtol=1e-4, atol=1e-5)
