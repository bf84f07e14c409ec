"""What lies at a path: a model, or an adapter on the base that it names."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model

from loratory.adapter.save import save_adapter
from loratory.config import ModelConfig
from loratory.data.templates import bind_template
from loratory.errors import AdapterError, IntegrityError, ModelError
from loratory.evaluation.subject import locate_subject, open_subject
from loratory.infer.session import open_session
from loratory.model import load_model

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")
PROMPT = [[5, 9, 33, 40]]


@pytest.fixture
def adapter_dir(tiny_llama_dir: Path, tmp_path: Path) -> Path:
    loaded = load_model(ModelConfig(model_name_or_path=str(tiny_llama_dir)))
    torch.manual_seed(0)
    model = get_peft_model(loaded.model, LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "up_proj"]))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.5)
    contract = bind_template("alpaca", loaded.tokenizer).contract()
    save_adapter(model, tmp_path / "adapter", base_identity=loaded.identity, template=contract)
    config = tmp_path / "adapter" / "adapter_config.json"
    assert json.loads(config.read_text("utf-8"))["base_model_name_or_path"] == str(tiny_llama_dir)
    return tmp_path / "adapter"


def test_a_model_folder(tiny_llama_dir: Path) -> None:
    subject = open_subject(locate_subject(str(tiny_llama_dir)))
    assert subject.source.kind == "model"
    assert [path.name for path in subject.files] == ["model.safetensors"]
    assert subject.adapter_sha256 is None
    assert not any(p.requires_grad for p in subject.model.parameters())
    assert subject.session().template.name == "chat"
    assert subject.base_identity == load_model(ModelConfig(model_name_or_path=str(tiny_llama_dir))).identity


def test_an_adapter_finds_its_base_and_template(tiny_llama_dir: Path, adapter_dir: Path) -> None:
    subject = open_subject(locate_subject(str(adapter_dir)))
    assert (subject.source.kind, subject.source.template) == ("adapter", "alpaca")
    assert [path.name for path in subject.files] == ["model.safetensors", "adapter_model.safetensors"]
    expected = open_session(ModelConfig(model_name_or_path=str(tiny_llama_dir)), adapter_dir, "alpaca")
    session = subject.session()
    assert session.template.name == "alpaca"
    assert session.generate(PROMPT, max_new_tokens=8) == expected.generate(PROMPT, max_new_tokens=8)


def test_the_base_can_be_given_and_must_be_the_right_one(
    adapter_dir: Path, tiny_model_dir: Callable[[str], Path]
) -> None:
    other = locate_subject(str(adapter_dir), base=str(tiny_model_dir("qwen2")))
    with pytest.raises(IntegrityError, match="another base"):
        open_subject(other)
    with pytest.raises(AdapterError, match="--base is for an adapter"):
        locate_subject(str(tiny_model_dir("qwen2")), base="x")


def test_an_adapter_without_a_base_says_so(adapter_dir: Path) -> None:
    config = adapter_dir / "adapter_config.json"
    values = json.loads(config.read_text("utf-8"))
    config.write_text(json.dumps({**values, "base_model_name_or_path": None}), "utf-8")
    with pytest.raises(AdapterError, match="--base FOLDER"):
        locate_subject(str(adapter_dir))


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="does not exist"):
        open_subject(locate_subject(str(tmp_path / "none")))
