"""A session: the adapter's answers fused or not, the base's on request, and the template contract."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model

from loratory.adapter.load import load_adapter
from loratory.adapter.save import save_adapter
from loratory.config import ModelConfig
from loratory.data.records import Origin, Record, Turn
from loratory.errors import AdapterError, IntegrityError
from loratory.infer.generate import generate
from loratory.infer.sampling import Sampling
from loratory.infer.session import check_contract, open_session
from loratory.model import load_model

# PEFT asks transformers for a property under its old name.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")


@pytest.fixture
def adapter_dir(tiny_llama_dir: Path, tmp_path: Path) -> Path:
    loaded = load_model(ModelConfig(model_name_or_path=str(tiny_llama_dir)))
    torch.manual_seed(0)
    config = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "v_proj", "up_proj"])
    model = get_peft_model(loaded.model, config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.5)
    save_adapter(model, tmp_path / "adapter", base_identity=loaded.identity)
    return tmp_path / "adapter"


def base_of(folder: Path) -> ModelConfig:
    return ModelConfig(model_name_or_path=str(folder))


def records(num: int) -> list[Record]:
    return [Record((Turn("user", "cancel " * (i + 1)), Turn("assistant", "ok")), Origin("r", i)) for i in range(num)]


def test_fused_answers_are_the_adapters_and_the_base_comes_back(tiny_llama_dir: Path, adapter_dir: Path) -> None:
    session = open_session(base_of(tiny_llama_dir), adapter_dir, "auto")
    assert session.fused is not None
    rows = records(3)
    prompts = [session.template.generation_prompt(row) for row in rows]
    loaded = load_model(base_of(tiny_llama_dir))
    plain = generate(loaded.model, prompts, stop_token_ids=session.template.stop_token_ids, max_new_tokens=8)
    adapted = load_adapter(loaded.model, adapter_dir, trainable=False, base_identity=loaded.identity)
    expected = generate(adapted, prompts, stop_token_ids=session.template.stop_token_ids, max_new_tokens=8)
    assert expected != plain
    assert session.generate(prompts, max_new_tokens=8) == expected
    with session.without_adapter():
        assert session.generate(prompts, max_new_tokens=8) == plain
    assert session.generate(prompts, max_new_tokens=8) == expected
    predicted = [session.tokenizer.decode(ids, skip_special_tokens=True) for ids in expected]
    assert [row.predict for row in session.predict(rows, max_new_tokens=8)] == predicted


def test_adapter_comes_back_after_an_error(tiny_llama_dir: Path, adapter_dir: Path) -> None:
    session = open_session(base_of(tiny_llama_dir), adapter_dir, "auto")
    prompt = [[5, 6, 7, 8]]
    expected = session.generate(prompt, max_new_tokens=8)
    with pytest.raises(KeyboardInterrupt), session.without_adapter():
        raise KeyboardInterrupt
    assert session.generate(prompt, max_new_tokens=8) == expected


def test_base_alone(tiny_llama_dir: Path) -> None:
    session = open_session(base_of(tiny_llama_dir), None, "alpaca")
    assert session.fused is None
    assert len(session.predict(records(2), max_new_tokens=3, sampling=Sampling(seed=1))) == 2
    with pytest.raises(AdapterError, match="no separate adapter"), session.without_adapter():
        pass


def test_base_weights_not_kept(tiny_llama_dir: Path, adapter_dir: Path) -> None:
    session = open_session(base_of(tiny_llama_dir), adapter_dir, "auto", keep_base=False)
    before = session.generate([[5, 6, 7, 8]], max_new_tokens=8)
    with pytest.raises(AdapterError, match="cannot be switched off"), session.without_adapter():
        pass
    assert session.generate([[5, 6, 7, 8]], max_new_tokens=8) == before


def test_sixteen_bit_session_keeps_the_adapter_apart(tiny_llama_dir: Path, adapter_dir: Path) -> None:
    base = ModelConfig(model_name_or_path=str(tiny_llama_dir), dtype="bfloat16")
    session = open_session(base, adapter_dir, "auto")
    assert session.fused is None
    with session.without_adapter():
        assert len(session.generate([[5, 6]], max_new_tokens=3)) == 1


def test_template_contract(tiny_llama_dir: Path, adapter_dir: Path, tmp_path: Path) -> None:
    file = tmp_path / "template.json"
    contract = open_session(base_of(tiny_llama_dir), None, "chat").template.contract()
    file.write_text(json.dumps(contract), encoding="utf-8")
    open_session(base_of(tiny_llama_dir), adapter_dir, "chat", contract_file=file)
    with pytest.raises(IntegrityError, match=r"another prompt template.*name: trained with 'chat', now 'alpaca'"):
        open_session(base_of(tiny_llama_dir), adapter_dir, "alpaca", contract_file=file)
    forced = open_session(base_of(tiny_llama_dir), adapter_dir, "alpaca", contract_file=file, force_template=True)
    assert forced.template.name == "alpaca"


@pytest.mark.parametrize("content", ["{", "[]", "\xff"])
def test_unreadable_contract(tmp_path: Path, content: str) -> None:
    file = tmp_path / "template.json"
    file.write_bytes(content.encode("latin-1"))
    with pytest.raises(IntegrityError, match=r"template\.json"):
        check_contract(file, {"name": "chat"})


def test_adapter_of_another_base(tiny_model_dir: Callable[[str], Path], adapter_dir: Path) -> None:
    with pytest.raises(IntegrityError, match="another base"):
        open_session(base_of(tiny_model_dir("qwen2")), adapter_dir, "auto")
