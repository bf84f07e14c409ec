"""Combining, converting, comparing and validating adapters and what was merged from them."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from loratory.adapter.combine import Share, combine_adapters
from loratory.adapter.convert import convert_adapter
from loratory.adapter.difference import compare_adapters
from loratory.adapter.merge import QuantisedTraining, merge_adapter
from loratory.adapter.validation import validate_model
from loratory.config import ModelConfig, QuantizationConfig
from loratory.errors import AdapterError, UnsafeError
from random_adapter import write_adapter

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")


def base_of(folder: Path) -> ModelConfig:
    return ModelConfig(model_name_or_path=str(folder))


def update(folder: Path, name: str) -> torch.Tensor:
    found = load_file(folder / "adapter_model.safetensors")
    b, a = (found[f"base_model.model.{name}.lora_{part}.weight"] for part in "BA")
    return b @ a


def test_cat_is_the_weighted_sum_and_merges(tiny_llama_dir: Path, tmp_path: Path) -> None:
    first = write_adapter(tiny_llama_dir, tmp_path / "a", seed=1)
    second = write_adapter(tiny_llama_dir, tmp_path / "b", seed=2, r=2, lora_alpha=4)
    shares = [Share(first, 1.0), Share(second, 0.5)]
    told = combine_adapters(base_of(tiny_llama_dir), shares, tmp_path / "c", combination="cat")
    name = "model.layers.1.self_attn.v_proj"
    torch.testing.assert_close(update(tmp_path / "c", name), 2 * update(first, name) + 0.5 * 2 * update(second, name))
    certificate = merge_adapter(base_of(tiny_llama_dir), tmp_path / "c", tmp_path / "merged", combined=told)
    assert [one["weight"] for one in certificate.combined] == [1.0, 0.5]
    assert validate_model(tmp_path / "merged").findings.verdict != "broken"


def test_unequal_ranks_have_no_linear_sum(tiny_llama_dir: Path, tmp_path: Path) -> None:
    first = write_adapter(tiny_llama_dir, tmp_path / "a")
    second = write_adapter(tiny_llama_dir, tmp_path / "b", r=2)
    with pytest.raises(AdapterError, match="svd and cat"):
        combine_adapters(
            base_of(tiny_llama_dir), [Share(first, 1), Share(second, 1)], tmp_path / "c", combination="linear"
        )


@pytest.mark.parametrize("quantization", [{"load_in_8bit": True}, {"load_in_4bit": True}], ids=["int8", "nf4"])
@pytest.mark.parametrize("wanted", ["auto", "original"])
def test_both_bases_of_a_quantised_adapter_are_measured(
    tiny_llama_dir: Path, tmp_path: Path, wanted: str, quantization: dict[str, bool]
) -> None:
    adapter = write_adapter(tiny_llama_dir, tmp_path / "a")
    training = QuantisedTraining(wanted, QuantizationConfig(**quantization))  # type: ignore[arg-type]
    found = merge_adapter(base_of(tiny_llama_dir), adapter, tmp_path / "merged", quantised=training)
    assert found.base_choice is not None
    assert found.base_choice.dequantised.mean_kl_nats < found.base_choice.original.mean_kl_nats
    assert found.base_choice.chosen == ("dequantised" if wanted == "auto" else "original")
    assert any(f"Merged into the {found.base_choice.chosen} base" in note for note in found.notes)
    # The files hold what was chosen: also weights without an adapter are those of the quantised base.
    name = "model.layers.0.mlp.up_proj.weight"
    base, merged = (load_file(folder / "model.safetensors")[name] for folder in (tiny_llama_dir, tmp_path / "merged"))
    assert torch.equal(base, merged) == (wanted == "original")


def test_pickled_adapter_is_converted(tiny_llama_dir: Path, tmp_path: Path) -> None:
    adapter = write_adapter(tiny_llama_dir, tmp_path / "a", has_manifest=False)
    (tmp_path / "old").mkdir()
    shutil.copy(adapter / "adapter_config.json", tmp_path / "old")
    torch.save(load_file(adapter / "adapter_model.safetensors"), tmp_path / "old" / "adapter_model.bin")
    assert convert_adapter(tmp_path / "old", tmp_path / "new") == 8
    assert compare_adapters(adapter, tmp_path / "new").is_same


def test_hostile_pickle_is_not_converted(tiny_llama_dir: Path, tmp_path: Path) -> None:
    adapter = write_adapter(tiny_llama_dir, tmp_path / "a", has_manifest=False)
    (adapter / "adapter_model.safetensors").unlink()

    class Hostile:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            import os

            return os.system, (f"touch {tmp_path / 'owned'}",)

    torch.save({"weight": Hostile()}, adapter / "adapter_model.bin")
    with pytest.raises(UnsafeError):
        convert_adapter(adapter, tmp_path / "new")
    assert not (tmp_path / "owned").exists()
    assert not (tmp_path / "new").exists()


def test_difference_by_hand(tiny_llama_dir: Path, tmp_path: Path) -> None:
    first = write_adapter(tiny_llama_dir, tmp_path / "a", seed=1)
    other = write_adapter(tiny_llama_dir, tmp_path / "b", seed=1, lora_alpha=16)
    found = compare_adapters(first, other)
    assert found.config == {"lora_alpha": (8, 16)}
    assert {round(weight.relative, 6) for weight in found.weights} == {1.0}
    assert found.same_base is True
