"""What vLLM can serve is written for it; what it would refuse or compute otherwise is refused with the reason."""

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaForCausalLM

from loratory.adapter import save_adapter
from loratory.adapter.vllm_limits import obstacles
from loratory.errors import AdapterError, RunError
from loratory.export.vllm import export_vllm_adapter, minimal_config, vllm_command

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")
PLAIN: dict[str, Any] = {
    "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 8, "lora_alpha": 16, "lora_dropout": 0.0, "bias": "none",
    "target_modules": ["v_proj", "q_proj"], "base_model_name_or_path": "elsewhere", "peft_version": "0.21.2",
    "velora_config": None, "rank_pattern": {},
}  # fmt: skip


@pytest.fixture
def adapter(tiny_llama: LlamaForCausalLM, tmp_path: Path) -> Path:
    config = peft.LoraConfig(task_type="CAUSAL_LM", r=6, lora_alpha=12, target_modules=["q_proj", "v_proj"])
    model = peft.get_peft_model(tiny_llama, config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    save_adapter(model, tmp_path / "adapter", base_identity="0" * 64)
    return tmp_path / "adapter"


def test_adapter_folder_and_command(adapter: Path, tmp_path: Path) -> None:
    output = tmp_path / "for_vllm"
    found = export_vllm_adapter(
        adapter, output, base="org/base", name="codes", chat_template="{{ messages }}", max_model_len=512
    )
    assert found.command == (
        f"vllm serve org/base --host 127.0.0.1 --enable-lora --lora-modules codes={output} --max-lora-rank 8 "
        f"--chat-template {output}/chat_template.jinja --max-model-len 512"
    )
    assert found.notes == ()
    assert sorted(path.name for path in output.iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors", "chat_template.jinja",
    ]  # fmt: skip
    written = json.loads((output / "adapter_config.json").read_text("utf-8"))
    # The keys of PEFT 0.3, which every reader knows.
    assert set(written) == {
        "peft_type", "task_type", "base_model_name_or_path", "r", "lora_alpha", "lora_dropout", "bias",
        "inference_mode", "target_modules", "fan_in_fan_out", "modules_to_save",
    }  # fmt: skip
    assert written["base_model_name_or_path"] == "org/base"
    peft.LoraConfig(**written)
    before = load_file(adapter / "adapter_model.safetensors")
    after = load_file(output / "adapter_model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)
    with pytest.raises(RunError, match="exists already"):
        export_vllm_adapter(adapter, output, base="org/base", name="codes")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"r": 513}, "rank 513: its largest is 512"),
        ({"rank_pattern": {"q_proj": 4}}, "scales all layers alike"),
        ({"alpha_pattern": {"q_proj": 4}}, "scales all layers alike"),
        ({"bias": "all"}, "biases"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"peft_type": "LOHA"}, "this is LOHA"),
    ],
)
def test_obstacles(change: dict[str, Any], reason: str) -> None:
    assert obstacles(PLAIN, ["m.lora_A.weight"]) == []
    assert any(reason in fault for fault in obstacles(PLAIN | change, ["m.lora_A.weight"]))


def test_other_tensors_are_an_obstacle() -> None:
    assert "embedding" in obstacles(PLAIN, ["m.lora_embedding_A"])[0]
    assert "no LoRA matrices" in obstacles(PLAIN, ["m.lora_A.weight", "m.bias"])[0]


def test_dora_is_refused_with_what_to_do(adapter: Path, tmp_path: Path) -> None:
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | {"bias": "lora_only"}), encoding="utf-8")
    (adapter / "loratory_adapter.json").unlink()
    with pytest.raises(AdapterError, match=r"biases.*loratory adapter merge"):
        export_vllm_adapter(adapter, tmp_path / "out", base="b", name="n")
    assert not (tmp_path / "out").exists()


def test_rslora_is_kept() -> None:
    assert minimal_config(PLAIN | {"use_rslora": True}, base="b")["use_rslora"] is True
    assert "use_rslora" not in minimal_config(PLAIN, base="b")


def test_command_of_a_whole_model_is_quoted() -> None:
    assert vllm_command("a b", name="n") == "vllm serve 'a b' --host 127.0.0.1 --served-model-name n"
