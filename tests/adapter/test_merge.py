"""Merge law: a merged model answers as the adapter on its base, or nothing stands under the final name."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from loratory.adapter import streamed_merge
from loratory.adapter.certificate import FILE_NAME, Tolerance, read_certificate
from loratory.adapter.load import load_adapter
from loratory.adapter.lora import quiet_peft
from loratory.adapter.merge import merge_adapter
from loratory.adapter.save import save_adapter
from loratory.config import ModelConfig
from loratory.errors import AdapterError, IntegrityError, ResourceError, RunError
from loratory.model import load_model

# PEFT asks transformers for a property under its old name.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")

IDS = torch.tensor([[5, 60, 61, 300, 9, 120, 77, 301]])


def randomise(model: torch.nn.Module, scale: float) -> None:
    """Give everything the adapter trains values that matter."""
    source = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape, generator=source) * scale
                parameter.copy_(noise if "lora_" in name and "magnitude" not in name else parameter + noise)


def make_adapter(
    base_dir: Path, folder: Path, *, scale: float = 0.3, base_identity: str | None = None, **options: Any
) -> torch.Tensor:
    """Save a random adapter of the base; returns its logits on IDS."""
    loaded = load_model(ModelConfig(model_name_or_path=str(base_dir), dtype="float32"))
    options = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", **options}
    torch.manual_seed(0)
    with quiet_peft():
        model = get_peft_model(loaded.model, LoraConfig(task_type="CAUSAL_LM", **options))
    randomise(model, scale)
    save_adapter(model, folder, base_identity=base_identity or loaded.identity)
    with torch.no_grad():
        logits: torch.Tensor = model.eval()(IDS).logits
    return logits


def base_of(folder: Path) -> ModelConfig:
    return ModelConfig(model_name_or_path=str(folder))


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rslora": {"use_rslora": True, "r": 8},
    "dora": {"use_dora": True},
    "patterns": {"rank_pattern": {"q_proj": 2, "down_proj": 7}, "alpha_pattern": {"q_proj": 3}},
    "modules_to_save": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    "embedding": {"target_modules": ["embed_tokens", "v_proj"]},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_merged_llama_answers_as_the_adapter_on_its_base(tiny_llama_dir: Path, tmp_path: Path, variant: str) -> None:
    expected = make_adapter(tiny_llama_dir, tmp_path / "adapter", **VARIANTS[variant])
    certificate = merge_adapter(base_of(tiny_llama_dir), tmp_path / "adapter", tmp_path / "merged")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    bare = AutoModelForCausalLM.from_pretrained(tiny_llama_dir)
    with torch.no_grad():
        torch.testing.assert_close(merged(IDS).logits, expected, rtol=1e-4, atol=1e-4)
        assert (bare(IDS).logits - expected).abs().max() > 0.05
    assert certificate.dtype == "float32"
    assert certificate.measured.relative_logit_difference <= 1e-3
    assert certificate.effect.max_logit_difference > 100 * certificate.measured.max_logit_difference


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "gemma", "mistral", "phi", "gpt2", "gpt_neox", "bloom"])
def test_every_family_merges(tiny_model_dir: Callable[[str], Path], tmp_path: Path, family: str) -> None:
    make_adapter(tiny_model_dir(family), tmp_path / "adapter")
    certificate = merge_adapter(base_of(tiny_model_dir(family)), tmp_path / "adapter", tmp_path / "merged")
    assert certificate.measured.relative_logit_difference < 1e-4
    assert certificate.effect.relative_logit_difference > 1e-2


def test_bias_trained_by_the_adapter_is_merged(tiny_model_dir: Callable[[str], Path], tmp_path: Path) -> None:
    expected = make_adapter(tiny_model_dir("gpt2"), tmp_path / "adapter", bias="all", target_modules=["c_attn"])
    merge_adapter(base_of(tiny_model_dir("gpt2")), tmp_path / "adapter", tmp_path / "merged")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    with torch.no_grad():
        torch.testing.assert_close(merged(IDS).logits, expected, rtol=1e-4, atol=1e-4)


def test_tied_embeddings_trained_in_full_stay_shared(tiny_llama_dir: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    config = AutoConfig.from_pretrained(tiny_llama_dir, tie_word_embeddings=True)
    torch.manual_seed(1)
    AutoModelForCausalLM.from_config(config).save_pretrained(base)
    AutoTokenizer.from_pretrained(tiny_llama_dir).save_pretrained(base)
    options = {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}
    expected = make_adapter(base, tmp_path / "adapter", **options)
    merge_adapter(base_of(base), tmp_path / "adapter", tmp_path / "merged")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert merged.lm_head.weight is merged.model.embed_tokens.weight
    with torch.no_grad():
        torch.testing.assert_close(merged(IDS).logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_sixteen_bit_output(tiny_llama_dir: Path, tmp_path: Path, dtype: Any) -> None:
    make_adapter(tiny_llama_dir, tmp_path / "adapter")
    certificate = merge_adapter(base_of(tiny_llama_dir), tmp_path / "adapter", tmp_path / "merged", dtype=dtype)
    weights = load_file(tmp_path / "merged" / "model.safetensors")
    assert {str(tensor.dtype) for tensor in weights.values()} == {f"torch.{dtype}"}
    config = json.loads((tmp_path / "merged" / "config.json").read_text(encoding="utf-8"))
    assert config.get("dtype", config.get("torch_dtype")) == dtype
    assert 0 < certificate.measured.mean_kl_nats < 1e-3
    assert 0 < max(certificate.rounding_loss.values()) < 0.2


def test_format_of_the_base_is_kept(tiny_llama_dir: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_llama_dir, dtype=torch.bfloat16)
    model.save_pretrained(tmp_path / "base")
    AutoTokenizer.from_pretrained(tiny_llama_dir).save_pretrained(tmp_path / "base")
    make_adapter(tmp_path / "base", tmp_path / "adapter")
    certificate = merge_adapter(base_of(tmp_path / "base"), tmp_path / "adapter", tmp_path / "merged")
    assert certificate.dtype == "bfloat16"


def test_update_lost_to_rounding_is_told(tiny_llama_dir: Path, tmp_path: Path) -> None:
    make_adapter(tiny_llama_dir, tmp_path / "adapter", scale=0.003)
    certificate = merge_adapter(base_of(tiny_llama_dir), tmp_path / "adapter", tmp_path / "merged", dtype="bfloat16")
    assert max(certificate.rounding_loss.values()) > 0.2
    assert "rounding lost more than 20%" in certificate.notes[0]


def test_folder_is_complete_and_the_certificate_reads_back(tiny_llama_dir: Path, tmp_path: Path) -> None:
    make_adapter(tiny_llama_dir, tmp_path / "adapter")
    certificate = merge_adapter(base_of(tiny_llama_dir), tmp_path / "adapter", tmp_path / "models" / "merged")
    merged = tmp_path / "models" / "merged"
    assert leftovers(tmp_path / "models") == ["merged"]
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", FILE_NAME} <= set(
        leftovers(merged)
    )
    assert read_certificate(merged) == certificate
    loaded = load_model(base_of(merged))
    assert loaded.identity == certificate.merged_identity
    assert certificate.base_identity == load_model(base_of(tiny_llama_dir)).identity
    size = {name: (tmp_path / name).stat().st_size for name in ()} or merged.joinpath(
        "model.safetensors"
    ).stat().st_size
    assert size == pytest.approx((tiny_llama_dir / "model.safetensors").stat().st_size, rel=0.01)


def test_stop_tokens_of_the_template_reach_generation_config(tiny_llama_dir: Path, tmp_path: Path) -> None:
    loaded = load_model(base_of(tiny_llama_dir))
    model = get_peft_model(loaded.model, LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"]))
    randomise(model, 0.3)
    template = {"name": "chat", "stop_token_ids": [4, 1]}
    save_adapter(model, tmp_path / "adapter", base_identity=loaded.identity, template=template)
    merge_adapter(base_of(tiny_llama_dir), tmp_path / "adapter", tmp_path / "merged")
    values = json.loads((tmp_path / "merged" / "generation_config.json").read_text(encoding="utf-8"))
    assert values["eos_token_id"] == [1, 4]


def test_outside_the_tolerance_nothing_is_published(tiny_llama_dir: Path, tmp_path: Path) -> None:
    make_adapter(tiny_llama_dir, tmp_path / "adapter")
    with pytest.raises(IntegrityError, match="does not answer as the adapter on its base") as caught:
        merge_adapter(
            base_of(tiny_llama_dir),
            tmp_path / "adapter",
            tmp_path / "out" / "merged",
            dtype="bfloat16",
            tolerance=Tolerance(relative_logit_difference=1e-6),
        )
    assert caught.value.exit_code == 4
    assert leftovers(tmp_path / "out") == []


def test_a_tensor_that_was_corrupted_on_disk_is_not_published(
    tiny_llama_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_adapter(tiny_llama_dir, tmp_path / "adapter")
    save = streamed_merge.write_shard

    def save_badly(path: Path, entries: Any) -> int:
        size = save(path, entries)
        tensors = load_file(path)
        tensors["model.layers.1.mlp.up_proj.weight"][3] += 0.5
        save_file(tensors, path, metadata={"format": "pt"})
        return size

    monkeypatch.setattr(streamed_merge, "write_shard", save_badly)
    with pytest.raises(IntegrityError, match="relative_logit_difference"):
        merge_adapter(base_of(tiny_llama_dir), tmp_path / "adapter", tmp_path / "out" / "merged")
    assert leftovers(tmp_path / "out") == []


def test_overflow_of_float16_is_not_published(tiny_llama_dir: Path, tmp_path: Path) -> None:
    make_adapter(tiny_llama_dir, tmp_path / "adapter", scale=300.0)
    with pytest.raises(IntegrityError, match=r"does not fit torch\.float16"):
        merge_adapter(base_of(tiny_llama_dir), tmp_path / "adapter", tmp_path / "merged", dtype="float16")
    assert not (tmp_path / "merged").exists()


def test_adapter_without_effect_is_refused(tiny_llama_dir: Path, tmp_path: Path) -> None:
    loaded = load_model(base_of(tiny_llama_dir))
    model = get_peft_model(loaded.model, LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"]))
    save_adapter(model, tmp_path / "adapter", base_identity=loaded.identity)
    with pytest.raises(AdapterError, match="does nothing"):
        merge_adapter(base_of(tiny_llama_dir), tmp_path / "adapter", tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_adapter_of_another_base_is_refused(tiny_llama_dir: Path, tmp_path: Path) -> None:
    make_adapter(tiny_llama_dir, tmp_path / "adapter")
    other = AutoModelForCausalLM.from_pretrained(tiny_llama_dir)
    with torch.no_grad():
        other.model.norm.weight.mul_(1.001)
    other.save_pretrained(tmp_path / "other")
    AutoTokenizer.from_pretrained(tiny_llama_dir).save_pretrained(tmp_path / "other")
    with pytest.raises(IntegrityError, match="another base"):
        merge_adapter(base_of(tmp_path / "other"), tmp_path / "adapter", tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_merging_twice_is_refused(tiny_llama_dir: Path, tmp_path: Path) -> None:
    make_adapter(tiny_llama_dir, tmp_path / "adapter")
    merge_adapter(base_of(tiny_llama_dir), tmp_path / "adapter", tmp_path / "merged")
    # Without its manifest, only the certificate knows.
    (tmp_path / "adapter" / "loratory_adapter.json").unlink()
    with pytest.raises(AdapterError, match="holds this adapter already"):
        merge_adapter(base_of(tmp_path / "merged"), tmp_path / "adapter", tmp_path / "twice")


def test_existing_output_is_kept_unless_it_is_a_merged_model(tiny_llama_dir: Path, tmp_path: Path) -> None:
    make_adapter(tiny_llama_dir, tmp_path / "adapter")
    base, adapter, output = base_of(tiny_llama_dir), tmp_path / "adapter", tmp_path / "merged"
    output.mkdir()
    (output / "thesis.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(RunError, match="exists already"):
        merge_adapter(base, adapter, output)
    with pytest.raises(RunError, match="not a merged model"):
        merge_adapter(base, adapter, output, overwrite=True)
    assert leftovers(output) == ["thesis.txt"]
    (output / "thesis.txt").unlink()
    merge_adapter(base, adapter, output)
    certificate = merge_adapter(base, adapter, output, dtype="bfloat16", overwrite=True)
    assert read_certificate(output) == certificate
    assert leftovers(tmp_path) == ["adapter", "merged"]


def test_failed_overwrite_keeps_the_earlier_model(tiny_llama_dir: Path, tmp_path: Path) -> None:
    make_adapter(tiny_llama_dir, tmp_path / "adapter")
    first = merge_adapter(base_of(tiny_llama_dir), tmp_path / "adapter", tmp_path / "merged")
    with pytest.raises(IntegrityError):
        merge_adapter(
            base_of(tiny_llama_dir),
            tmp_path / "adapter",
            tmp_path / "merged",
            dtype="bfloat16",
            overwrite=True,
            tolerance=Tolerance(relative_logit_difference=0.0),
        )
    assert read_certificate(tmp_path / "merged") == first
    assert leftovers(tmp_path) == ["adapter", "merged"]


def test_full_disk_is_told_before_writing(
    tiny_llama_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_adapter(tiny_llama_dir, tmp_path / "adapter")
    monkeypatch.setattr("shutil.disk_usage", lambda _path: type("Usage", (), {"free": 1000})())
    with pytest.raises(ResourceError, match="MiB free"):
        merge_adapter(base_of(tiny_llama_dir), tmp_path / "adapter", tmp_path / "merged")


def test_adapter_trained_on_a_quantised_base_is_noted(tiny_llama_dir: Path, tmp_path: Path) -> None:
    make_adapter(tiny_llama_dir, tmp_path / "adapter")
    manifest = tmp_path / "adapter" / "loratory_adapter.json"
    values = json.loads(manifest.read_text(encoding="utf-8")) | {"quantization": "nf4"}
    manifest.write_text(json.dumps(values), encoding="utf-8")
    certificate = merge_adapter(base_of(tiny_llama_dir), tmp_path / "adapter", tmp_path / "merged")
    assert certificate.adapter_quantization == "nf4"
    assert "trained on the base in nf4" in certificate.notes[0]


def test_tokenizer_of_another_contract_is_refused_unless_forced(tiny_llama_dir: Path, tmp_path: Path) -> None:
    make_adapter(tiny_llama_dir, tmp_path / "adapter")
    manifest = tmp_path / "adapter" / "loratory_adapter.json"
    values = json.loads(manifest.read_text(encoding="utf-8"))
    values["template"] = {"name": "chat", "stop_token_ids": [2], "tokenizer_sha256": "0" * 64}
    manifest.write_text(json.dumps(values), encoding="utf-8")
    base, adapter, output = base_of(tiny_llama_dir), tmp_path / "adapter", tmp_path / "merged"
    with pytest.raises(IntegrityError, match=r"another tokenizer .* --force-template"):
        merge_adapter(base, adapter, output)
    assert not output.exists()
    merge_adapter(base, adapter, output, force_template=True)
    assert (output / "merge_certificate.json").is_file()


def test_probes_of_the_user_are_measured_too(tiny_llama_dir: Path, tmp_path: Path) -> None:
    make_adapter(tiny_llama_dir, tmp_path / "adapter")
    base, adapter = base_of(tiny_llama_dir), tmp_path / "adapter"
    alone = merge_adapter(base, adapter, tmp_path / "a").measured
    more = merge_adapter(base, adapter, tmp_path / "b", probes=[[5, 6, 7], []]).measured
    assert (more.num_prompts, more.num_positions) == (alone.num_prompts + 1, alone.num_positions + 3)


def test_merged_model_equals_the_loaded_adapter_in_generation(tiny_llama_dir: Path, tmp_path: Path) -> None:
    make_adapter(tiny_llama_dir, tmp_path / "adapter")
    merge_adapter(base_of(tiny_llama_dir), tmp_path / "adapter", tmp_path / "merged")
    loaded = load_model(base_of(tiny_llama_dir))
    adapted = load_adapter(loaded.model, tmp_path / "adapter", trainable=False, base_identity=loaded.identity)
    assert isinstance(adapted, PeftModel)
    merged = load_model(base_of(tmp_path / "merged")).model
    options = {"max_new_tokens": 20, "do_sample": False, "pad_token_id": 2}
    mask = torch.ones_like(IDS)
    assert torch.equal(
        adapted.generate(input_ids=IDS, attention_mask=mask, **options),
        merged.generate(input_ids=IDS, attention_mask=mask, **options),
    )
