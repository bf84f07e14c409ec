"""GGUF files answer as the models they were written from, or are not published."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma2Config, LlamaConfig, PreTrainedModel, PreTrainedTokenizerFast

from loratory.config import ModelConfig
from loratory.data.templates import bind_template
from loratory.errors import IntegrityError, ModelError, RunError
from loratory.export import gguf_file
from loratory.export.gguf_family import FAMILIES, family_of, from_gguf, llama3_rope_factors, to_gguf
from loratory.export.gguf_file import GgufReport, export_gguf
from loratory.export.gguf_vocabulary import read_vocabulary
from loratory.model import load_model

pytest.importorskip("gguf")


def write(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, output: Path, dtype: str = "f32", **more: bool
) -> GgufReport:
    return export_gguf(
        model,
        tokenizer,
        output,
        template=bind_template("chat", tokenizer),
        chat_template=tokenizer.chat_template,
        dtype=dtype,  # type: ignore[arg-type]
        **more,  # type: ignore[arg-type]
    )


def random_model(config: LlamaConfig | Gemma2Config) -> PreTrainedModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3", "gemma", "gpt2"])
def test_f32_is_exact_for_every_family(family: str, tiny_model_dir: Callable[[str], Path], tmp_path: Path) -> None:
    loaded = load_model(ModelConfig(model_name_or_path=str(tiny_model_dir(family)), dtype="float32"), device="cpu")
    report = write(loaded.model, loaded.tokenizer, tmp_path / "m.gguf")
    assert report.measured.max_logit_difference == 0
    assert report.answer == report.answer_of_file
    assert report.num_bytes == (tmp_path / "m.gguf").stat().st_size
    assert [path.name for path in tmp_path.iterdir()] == ["m.gguf"]


@pytest.mark.parametrize(("dtype", "least", "most"), [("f16", 1e-5, 1e-3), ("bf16", 1e-4, 1e-2), ("q8_0", 1e-4, 5e-2)])
def test_rounding_is_measured_and_small(
    dtype: str, least: float, most: float, tiny_llama: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
) -> None:  # fmt: skip
    report = write(tiny_llama, tiny_tokenizer, tmp_path / "m.gguf", dtype)
    assert least < report.measured.max_logit_difference < most
    full = write(tiny_llama, tiny_tokenizer, tmp_path / "full.gguf")
    assert report.num_bytes < (0.4 if dtype == "q8_0" else 0.6) * full.num_bytes
    assert report.to_json()["path"] == "m.gguf"
    json.dumps(report.to_json())


def test_gemma2_and_tied_embeddings(
    tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # transformers gives a Gemma vocabulary tokens that this one has not, so the file is rebuilt from its tensors.
    monkeypatch.setitem(FAMILIES, "gemma2", replace(FAMILIES["gemma2"], reader_fixes=None))
    config = Gemma2Config(
        vocab_size=len(tiny_tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=256, query_pre_attn_scalar=256,
        max_position_embeddings=512,
    )  # fmt: skip
    report = write(random_model(config), tiny_tokenizer, tmp_path / "m.gguf")
    assert report.measured.max_logit_difference == 0
    from gguf import GGUFReader

    assert "output.weight" not in {tensor.name for tensor in GGUFReader(tmp_path / "m.gguf").tensors}


def test_llama3_rope_is_written_as_divisors_of_the_frequencies(
    tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    rope = {
        "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
    }  # fmt: skip
    config = LlamaConfig(
        vocab_size=len(tiny_tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=512, rope_parameters=rope,
    )  # fmt: skip
    model = random_model(config)
    report = write(model, tiny_tokenizer, tmp_path / "m.gguf")
    assert report.measured.max_logit_difference == 0
    factors = llama3_rope_factors(config)
    assert factors is not None
    plain = 500000.0 ** -(np.arange(0, 16, 2) / 16)
    np.testing.assert_allclose(plain / factors, model.model.rotary_emb.inv_freq.numpy(), rtol=1e-5)
    from gguf import GGUFReader

    stored = {tensor.name: tensor for tensor in GGUFReader(tmp_path / "m.gguf").tensors}
    np.testing.assert_array_equal(stored["rope_freqs.weight"].data, factors)


def test_heads_are_interleaved_as_llama_cpp_rotates_them() -> None:
    # One head of four rows: half-split (0, 1 | 2, 3) becomes pairs (0, 2), (1, 3).
    config = LlamaConfig(num_attention_heads=1, num_key_value_heads=1)
    rows = np.arange(4, dtype=np.float32)[:, None]
    moved = to_gguf(FAMILIES["llama"], "blk.0.attn_q.weight", rows, config)
    assert moved[:, 0].tolist() == [0, 2, 1, 3]
    back = from_gguf(FAMILIES["llama"], "blk.0.attn_q.weight", moved, config)
    np.testing.assert_array_equal(back, rows)


def test_a_file_that_answers_otherwise_is_not_published(
    tiny_llama: PreTrainedModel,
    tiny_tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Without the reordering of q and k every number is in the file, in the wrong place.
    monkeypatch.setattr("loratory.export.gguf_family.PERMUTED", ("nothing",))
    with pytest.raises(IntegrityError, match=r"does not answer as the model.*Nothing was published"):
        write(tiny_llama, tiny_tokenizer, tmp_path / "m.gguf")
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_is_kept_unless_overwritten(
    tiny_llama: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    file = tmp_path / "m.gguf"
    file.write_bytes(b"mine")
    with pytest.raises(RunError, match="exists already"):
        write(tiny_llama, tiny_tokenizer, file)
    assert file.read_bytes() == b"mine"
    write(tiny_llama, tiny_tokenizer, file, overwrite=True)
    assert file.read_bytes()[:4] == b"GGUF"
    with pytest.raises(ModelError, match=r"needs the ending \.gguf"):
        write(tiny_llama, tiny_tokenizer, tmp_path / "m.bin")


def test_what_llama_cpp_computes_otherwise_is_refused(tiny_model_dir: Callable[[str], Path]) -> None:
    with pytest.raises(ModelError, match="a phi model cannot be exported"):
        family_of(load_model(ModelConfig(model_name_or_path=str(tiny_model_dir("phi")))).model.config)
    with pytest.raises(ModelError, match=r"activation is 'relu'.*yarn"):
        family_of(
            LlamaConfig(hidden_act="relu", rope_parameters={"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0})
        )


def test_an_unknown_pre_tokenizer_is_refused(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    from tokenizers import pre_tokenizers

    assert read_vocabulary(tiny_tokenizer, num_rows=420).pre == "smollm"
    tiny_tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    assert read_vocabulary(tiny_tokenizer, num_rows=420).pre == "gpt-2"
    tiny_tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Punctuation(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    with pytest.raises(ModelError, match=r"Punctuation.*has no name in llama\.cpp"):
        read_vocabulary(tiny_tokenizer, num_rows=420)


def test_vocabulary_rows_without_token_and_stop_token(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    size = len(tiny_tokenizer)
    found = read_vocabulary(tiny_tokenizer, num_rows=size + 2, stop_token_id=4)
    assert found.tokens[-2:] == (f"[PAD{size}]", f"[PAD{size + 1}]")
    assert found.kinds[:5] == (3, 3, 3, 3, 3)
    assert found.kinds[-1] == 5
    assert found.special_ids == {"bos": 0, "eos": 1, "pad": 2, "eot": 4}
    assert not found.adds_bos


def test_space_is_checked_before_anything_is_written(
    tiny_llama: PreTrainedModel,
    tiny_tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from loratory.errors import ResourceError

    monkeypatch.setattr(gguf_file.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 1000})())
    with pytest.raises(ResourceError, match="nothing was written"):
        write(tiny_llama, tiny_tokenizer, tmp_path / "m.gguf")
    assert list(tmp_path.iterdir()) == []
