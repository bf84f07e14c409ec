"""What PEFT 0.21 loads in silence is a finding here: the table of cases, each with its verdict."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from loratory.adapter.verdict import examine_adapter
from loratory.config import ModelConfig
from random_adapter import write_adapter

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")

Change = Callable[[Path], None]


def edit_config(**values: Any) -> Change:
    def change(folder: Path) -> None:
        path = folder / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change


def edit_tensors(edit: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Change:
    def change(folder: Path) -> None:
        path = folder / "adapter_model.safetensors"
        save_file(edit(load_file(path)), path)

    return change


def with_nan(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    tensors[next(iter(tensors))][0, 0] = float("nan")
    return tensors


def truncated(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def nothing(folder: Path) -> None:
    pass


EXTRA = "base_model.model.model.layers.0.self_attn.k_proj.lora_A.weight"

# name: (has the manifest, base at hand, change, verdict, words)
CASES: dict[str, tuple[bool, dict[str, int], Change, str, str]] = {
    "right base": (True, {}, nothing, "sound", "the base it was trained on"),
    "right base, made by PEFT": (False, {}, nothing, "doubtful", "nothing proves which base"),
    "other base of the same shapes": (True, {"seed": 9}, nothing, "broken", "trained on another base"),
    "other base, made by PEFT": (False, {"seed": 9}, nothing, "doubtful", "nothing proves which base"),
    "base with fewer layers": (False, {"num_hidden_layers": 1}, nothing, "broken", "does not fit this base"),
    "base with more layers": (False, {"num_hidden_layers": 3}, nothing, "broken", "does not fit this base"),
    "wider base": (False, {"hidden_size": 64}, nothing, "broken", "does not fit"),
    "keys renamed": (
        False,
        {},
        edit_tensors(lambda found: {key.replace("self_attn", "attn"): value for key, value in found.items()}),
        "broken",
        "lacks",
    ),
    "no tensors": (False, {}, edit_tensors(lambda found: {}), "broken", "empty"),
    "a tensor missing": (False, {}, edit_tensors(lambda found: dict(list(found.items())[1:])), "broken", "missing"),
    "a tensor more": (
        False,
        {},
        edit_tensors(lambda found: found | {EXTRA: torch.ones(4, 32)}),
        "broken",
        "does not fit this base",
    ),
    "not a number": (False, {}, edit_tensors(with_nan), "broken", "not finite"),
    "alpha edited, manifest": (True, {}, edit_config(lora_alpha=800), "broken", "changed after the adapter was saved"),
    "alpha edited, made by PEFT": (False, {}, edit_config(lora_alpha=800), "doubtful", "was alpha edited"),
    "rank edited": (False, {}, edit_config(r=8), "broken", "does not fit"),
    "unknown method": (False, {}, edit_config(peft_type="BOGUS"), "broken", "BOGUS"),
    "unknown option": (False, {}, edit_config(use_magic=True), "broken", "use_magic"),
    "endless expression": (False, {}, edit_config(target_modules="(.*)*(.*)*(.*)*(.*)*x"), "broken", "target"),
    "cut short": (False, {}, truncated, "broken", "not readable as safetensors"),
    "does nothing": (
        False,
        {},
        edit_tensors(lambda found: {key: value * ("lora_A" in key) for key, value in found.items()}),
        "broken",
        "does nothing",
    ),
    "no config": (False, {}, lambda folder: (folder / "adapter_config.json").unlink(), "broken", "adapter_config.json"),
}


def other_base(folder: Path, like: Path, *, seed: int = 0, **values: int) -> Path:
    config = AutoConfig.from_pretrained(like, **values)
    torch.manual_seed(seed)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(like).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("case", CASES)
def test_verdict(tiny_llama_dir: Path, tmp_path: Path, case: str) -> None:
    has_manifest, values, change, verdict, words = CASES[case]
    folder = write_adapter(tiny_llama_dir, tmp_path / "adapter", scale=0.02, has_manifest=has_manifest)
    change(folder)
    base = other_base(tmp_path / "base", tiny_llama_dir, **values) if values else tiny_llama_dir
    start = time.monotonic()
    found = examine_adapter(folder, ModelConfig(model_name_or_path=str(base)))
    assert found.findings.verdict == verdict, found.findings.items
    assert any(words in finding.text for finding in found.findings.items), found.findings.items
    assert time.monotonic() - start < 30


def test_nothing_named_in_the_config_is_imported(tiny_llama_dir: Path, tmp_path: Path) -> None:
    folder = write_adapter(tiny_llama_dir, tmp_path / "adapter", has_manifest=False)
    (tmp_path / "hostile_module.py").write_text("raise SystemExit('imported')")
    sys.path.insert(0, str(tmp_path))
    try:
        named = {"parent_library": "hostile_module", "base_model_class": "X"}
        edit_config(auto_mapping=named, megatron_core="hostile_module", base_model_name_or_path="nobody/nothing")(
            folder
        )
        found = examine_adapter(folder, ModelConfig(model_name_or_path=str(tiny_llama_dir)))
    finally:
        sys.path.remove(str(tmp_path))
    assert found.findings.verdict == "doubtful"
    assert "hostile_module" not in sys.modules


def test_pickled_weights_are_refused_unread(tiny_llama_dir: Path, tmp_path: Path) -> None:
    folder = write_adapter(tiny_llama_dir, tmp_path / "adapter", has_manifest=False)
    (folder / "adapter_model.safetensors").unlink()
    (folder / "adapter_model.bin").write_bytes(b"cos\nsystem\n(S'touch owned'\ntR.")
    found = examine_adapter(folder)
    assert found.findings.verdict == "broken"
    assert "pickled" in found.findings.items[0].text


def test_sizes_relative_to_the_base(tiny_llama_dir: Path, tmp_path: Path) -> None:
    folder = write_adapter(tiny_llama_dir, tmp_path / "adapter", target_modules=["q_proj"], r=1, lora_alpha=1)
    found = examine_adapter(folder, ModelConfig(model_name_or_path=str(tiny_llama_dir)))
    tensors = load_file(folder / "adapter_model.safetensors")
    base = load_file(tiny_llama_dir / "model.safetensors")
    name = "model.layers.1.self_attn.q_proj"
    b, a = (tensors[f"base_model.model.{name}.lora_{part}.weight"] for part in "BA")
    expected = ((b @ a).norm() / base[f"{name}.weight"].norm()).item()
    assert found.shares[f"{name}.weight"] == pytest.approx(expected, rel=1e-5)
