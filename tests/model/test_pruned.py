import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from loratory.adapter import attach_adapter
from loratory.config import AdapterConfig, ModelConfig
from loratory.errors import IntegrityError, LoratoryError, ModelError, UnsafeError
from loratory.model import load_model
from loratory.model.load import LoadedModel
from loratory.model.pruned import convert_pruned
from loratory.model.shapes import SHAPES_FILE, LayerShape, ModelShapes
from loratory.model.uneven import build_uneven, save_uneven, shapes_of
from pickled_eras import ERAS, write_era

LAYERS = (LayerShape(4, 2, 48), LayerShape(2, 1, 37), LayerShape(4, 2, 40))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LORATORY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def pruned(tiny_llama: LlamaForCausalLM) -> LlamaForCausalLM:
    whole = shapes_of(tiny_llama)
    torch.manual_seed(0)
    shapes = ModelShapes(whole.hidden_size, whole.vocab_size, whole.head_dim, LAYERS, (0, 1, 2))
    model = build_uneven(tiny_llama.config, shapes)
    assert isinstance(model, LlamaForCausalLM)
    return model


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found = model(torch.arange(3, 23)[None]).logits
    assert isinstance(found, torch.Tensor)
    return found


def open_file(path: Path, tokenizer: Path | None = None) -> LoadedModel:
    return load_model(
        ModelConfig(
            model_name_or_path=str(path),
            tokenizer_name_or_path=str(tokenizer) if tokenizer else None,
            dtype="float32",
        ),
        device="cpu",
    )


@pytest.mark.parametrize("era", ERAS)
def test_files_of_every_era_load_with_equal_logits(
    era: str, pruned: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    write_era(pruned, tmp_path / "pruned_model.bin", era, tiny_tokenizer)
    loaded = open_file(tmp_path / "pruned_model.bin")
    assert type(loaded.model) is LlamaForCausalLM
    assert shapes_of(loaded.model).layers == LAYERS
    assert torch.equal(logits(loaded.model), logits(pruned))
    text = "Please cancel my roaming pack."
    assert loaded.tokenizer(text)["input_ids"] == tiny_tokenizer(text)["input_ids"]
    assert loaded.tokenizer.eos_token == tiny_tokenizer.eos_token
    assert loaded.tokenizer.chat_template == tiny_tokenizer.chat_template


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("is_tied", [True, False])
def test_a_real_pickle_of_the_installed_version_loads_as_it_is(
    dtype: torch.dtype, is_tied: bool, pruned: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    if is_tied:
        pruned.lm_head.weight = pruned.model.embed_tokens.weight
        pruned.config.tie_word_embeddings = True
    # The rotary frequencies stay in float32 here, which a model cast as a whole does not keep.
    for value in pruned.parameters():
        value.data = value.data.to(dtype).float()
    wanted = logits(pruned)
    pruned.to(dtype)
    folder = tmp_path / "results"
    folder.mkdir()
    torch.save({"model": pruned, "tokenizer": tiny_tokenizer}, folder / "pruned_model.bin")
    loaded = open_file(folder)
    assert torch.equal(logits(loaded.model), wanted)
    shared = loaded.model.lm_head.weight.data_ptr() == loaded.model.model.embed_tokens.weight.data_ptr()
    assert shared is is_tied
    assert loaded.source == str(folder / "pruned_model.bin")


def test_a_file_is_converted_once_and_by_content(
    pruned: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path, cache: Path
) -> None:
    torch.save({"model": pruned, "tokenizer": tiny_tokenizer}, tmp_path / "a.bin")
    (tmp_path / "b.bin").write_bytes((tmp_path / "a.bin").read_bytes())
    first, second = open_file(tmp_path / "a.bin"), open_file(tmp_path / "b.bin")
    assert first.identity == second.identity
    assert len(list((cache / "pruned").iterdir())) == 1


def test_channel_pruned_hidden_size_and_block_pruned_layers(
    tiny_llama: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    whole = shapes_of(tiny_llama)
    shapes = ModelShapes(27, whole.vocab_size, whole.head_dim, LAYERS[:2], (0, 1))
    model = build_uneven(tiny_llama.config, shapes)
    write_era(model, tmp_path / "m.bin", "4.31", tiny_tokenizer)
    loaded = open_file(tmp_path / "m.bin")
    assert shapes_of(loaded.model) == shapes
    assert torch.equal(logits(loaded.model), logits(model))


def test_sentencepiece_tokenizer_is_taken_as_bytes(pruned: LlamaForCausalLM, tmp_path: Path) -> None:
    write_era(pruned, tmp_path / "m.bin", "llm-pruner", proto=b"\x0a\x07not-run")
    convert_pruned(tmp_path / "m.bin", tmp_path / "out")
    assert (tmp_path / "out" / "tokenizer.model").read_bytes() == b"\x0a\x07not-run"
    settings = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert settings == {"add_bos_token": True, "bos_token": "<s>", "tokenizer_class": "LlamaTokenizer"}


def test_without_a_tokenizer_the_base_must_be_named(
    pruned: LlamaForCausalLM, tiny_llama_dir: Path, tmp_path: Path
) -> None:
    torch.save({"model": pruned, "tokenizer": None}, tmp_path / "m.bin")
    with pytest.raises(ModelError, match=r"no tokenizer.*tokenizer_name_or_path"):
        open_file(tmp_path / "m.bin")
    assert torch.equal(logits(open_file(tmp_path / "m.bin", tiny_llama_dir).model), logits(pruned))


def cut_value(model: LlamaForCausalLM) -> None:
    model.model.layers[1].self_attn.v_proj = nn.Linear(32, 16, bias=False)


def cut_heads(model: LlamaForCausalLM) -> None:
    model.model.layers[2].self_attn.q_proj = nn.Linear(32, 24, bias=False)


def poison(model: LlamaForCausalLM) -> None:
    with torch.no_grad():
        model.model.layers[2].mlp.up_proj.weight[3, 4] = torch.nan


def leave_gap(model: LlamaForCausalLM) -> None:
    model.model.layers._modules["7"] = model.model.layers._modules.pop("2")


def other_norm(model: LlamaForCausalLM) -> None:
    model.model.norm.weight = nn.Parameter(torch.ones(31))


def extra_weight(model: LlamaForCausalLM) -> None:
    model.model.extra = nn.Linear(2, 2)


def no_config(model: LlamaForCausalLM) -> None:
    del model.config


def other_rope(model: LlamaForCausalLM) -> None:
    model.model.rotary_emb.inv_freq.mul_(0.5)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (cut_value, r"layer 1: self_attn.v_proj is 16 x 32, but .* demand 8 x 32"),
        (cut_heads, r"layer 2: q_proj has 3 heads, no multiple of the 2 of k_proj"),
        (poison, r"model.layers.2.mlp.up_proj.weight \(40, 32\) holds 1 values that are not finite"),
        (leave_gap, r"numbered \[0, 1, 7\]"),
        (other_norm, r"model.norm.weight has shape \(31,\), but the architecture demands \(32,\)"),
        (extra_weight, r"model.extra.weight has no place"),
        (no_config, "has no config"),
        (other_rope, "rotary frequencies"),
    ],
)
def test_damaged_models_are_refused_with_layer_and_shapes(
    damage: Any, words: str, pruned: LlamaForCausalLM, tmp_path: Path, cache: Path
) -> None:
    damage(pruned)
    torch.save({"model": pruned, "tokenizer": None}, tmp_path / "m.bin")
    with pytest.raises(IntegrityError, match=words) as refused:
        open_file(tmp_path / "m.bin")
    assert refused.value.exit_code == 4
    assert str(tmp_path / "m.bin") in str(refused.value)
    assert not list((cache / "pruned").iterdir())


def test_tokenizer_that_does_not_belong_to_the_model(
    tiny_llama: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    shapes = ModelShapes(32, 100, 8, LAYERS, (0, 1, 2))
    torch.save({"model": build_uneven(tiny_llama.config, shapes), "tokenizer": tiny_tokenizer}, tmp_path / "m.bin")
    with pytest.raises(ModelError, match=r"token id 399.*ids 0 to 99"):
        open_file(tmp_path / "m.bin")


class Evil:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return (open, (str(self.canary), "w"))


def test_code_in_the_config_or_tokenizer_is_never_run(pruned: LlamaForCausalLM, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    pruned.config.extra = Evil(canary)
    torch.save({"model": pruned, "tokenizer": None}, tmp_path / "m.bin")
    with pytest.raises(UnsafeError, match=r"GLOBAL at offset \d+: the file names (io|_io)\.open") as refused:
        open_file(tmp_path / "m.bin")
    assert refused.value.exit_code == 3
    assert not canary.exists()


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"model.weight": torch.ones(2)}, "no whole model"),
        ({"model": {"a.weight": torch.ones(2)}}, "plain weights"),
        ([1, 2], "a list, not a model"),
        (nn.Linear(2, 2), "no config"),
    ],
)
def test_files_without_a_model(value: Any, words: str, tmp_path: Path) -> None:
    torch.save(value, tmp_path / "m.bin")
    with pytest.raises(LoratoryError, match=words):
        open_file(tmp_path / "m.bin")


def test_adapters_attach_and_all_layers_get_gradients(
    pruned: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    save_uneven(pruned, tmp_path / "m", tiny_tokenizer)
    assert (tmp_path / "m" / SHAPES_FILE).is_file()
    attached = attach_adapter(open_file(tmp_path / "m").model, AdapterConfig(rank=2), seed=0).model
    attached(torch.arange(3, 23)[None], labels=torch.arange(3, 23)[None]).loss.backward()
    grads = {name: value.grad for name, value in attached.named_parameters() if value.requires_grad}
    assert grads
    assert all(value is not None for value in grads.values())
    assert all(value.abs().sum() > 0 for name, value in grads.items() if "lora_B" in name)
    assert shapes_of(attached.get_base_model()).layers == LAYERS
