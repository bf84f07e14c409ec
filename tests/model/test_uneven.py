import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from loratory.config import ModelConfig
from loratory.errors import IntegrityError, ModelError
from loratory.model import load_model
from loratory.model.load import LoadedModel
from loratory.model.shapes import SHAPES_FILE, LayerShape, ModelShapes, shapes_from_json, shapes_to_json
from loratory.model.uneven import UNEVEN_FAMILIES, build_uneven, save_uneven, shapes_of

LAYERS = (LayerShape(4, 2, 48), LayerShape(3, 1, 37))


def uneven(model: PreTrainedModel, layers: tuple[LayerShape, ...] = LAYERS) -> PreTrainedModel:
    """An uneven random model of the family and vocabulary of a tiny one."""
    whole = shapes_of(model)
    torch.manual_seed(0)
    return build_uneven(
        model.config,
        ModelShapes(whole.hidden_size, whole.vocab_size, whole.head_dim, layers, tuple(range(len(layers)))),
    )


def logits(model: PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.arange(3, 23)[None]).logits


def open_folder(folder: Path) -> LoadedModel:
    return load_model(ModelConfig(model_name_or_path=str(folder), dtype="float32"), device="cpu")


@pytest.mark.parametrize("family", UNEVEN_FAMILIES)
def test_a_saved_uneven_model_loads_with_the_same_logits_and_class(
    family: str, tiny_model_dir: Callable[[str], Path], tmp_path: Path
) -> None:
    base = open_folder(tiny_model_dir(family))
    model = uneven(base.model)
    assert shapes_of(model).layers == LAYERS
    save_uneven(model, tmp_path / "uneven", base.tokenizer)
    again = open_folder(tmp_path / "uneven")
    assert type(again.model) is type(base.model)
    assert shapes_of(again.model) == shapes_of(model)
    assert torch.equal(logits(again.model), logits(model))
    assert again.tokenizer.get_vocab() == base.tokenizer.get_vocab()
    assert len(again.identity) == 64
    assert again.identity != base.identity


@pytest.mark.parametrize("family", UNEVEN_FAMILIES)
def test_generation_with_and_without_cache_agrees(family: str, tiny_model_dir: Callable[[str], Path]) -> None:
    model = uneven(open_folder(tiny_model_dir(family)).model)
    prompt = torch.arange(5, 17)[None]
    answers = [
        model.generate(
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=6, do_sample=False, use_cache=use_cache
        )
        for use_cache in (True, False)
    ]
    assert torch.equal(*answers)


def test_dropped_layers_keep_their_kind_of_attention(tiny_model_dir: Callable[[str], Path]) -> None:
    base = open_folder(tiny_model_dir("qwen2")).model
    config = copy.deepcopy(base.config)
    config.num_hidden_layers = 4
    config.layer_types = ["full_attention", "full_attention", "full_attention", "sliding_attention"]
    whole = shapes_of(base)
    shapes = ModelShapes(whole.hidden_size, whole.vocab_size, whole.head_dim, LAYERS, (1, 3))
    model = build_uneven(config, shapes)
    assert model.config.layer_types == ["full_attention", "sliding_attention"]
    assert model.config.num_hidden_layers == 2


def test_a_hidden_size_that_no_head_count_divides(tiny_llama: LlamaForCausalLM) -> None:
    """transformers refuses configs whose hidden size is no multiple of the heads; ours must still open."""
    shapes = ModelShapes(31, 50, 8, (LayerShape(4, 2, 16), LayerShape(3, 1, 8)), (0, 1))
    model = build_uneven(tiny_llama.config, shapes)
    assert shapes_of(model) == shapes
    assert torch.isfinite(logits(model)).all()


def test_other_families_are_refused(tiny_model_dir: Callable[[str], Path]) -> None:
    with pytest.raises(ModelError, match=r"gpt2.*llama"):
        shapes_of(open_folder(tiny_model_dir("gpt2")).model)


@pytest.mark.parametrize(
    ("path", "shape", "words"),
    [
        ("self_attn.k_proj", (32, 20), "layer 1: k_proj has 20 rows, no multiple of the head width 8"),
        ("self_attn.q_proj", (32, 24), "layer 1: q_proj has 3 heads, no multiple of the 2 of k_proj"),
        ("self_attn.v_proj", (32, 8), "layer 1: self_attn.v_proj is 8 x 32, but .* demand 16 x 32"),
        ("mlp.down_proj", (60, 32), "layer 1: mlp.down_proj is 32 x 60"),
    ],
)
def test_contradictions_name_layer_and_shapes(
    tiny_llama: LlamaForCausalLM, path: str, shape: tuple[int, int], words: str
) -> None:
    parent, _, name = path.rpartition(".")
    setattr(tiny_llama.model.layers[1].get_submodule(parent), name, nn.Linear(*shape, bias=False))
    with pytest.raises(IntegrityError, match=words):
        shapes_of(tiny_llama)


def test_manifest_round_trip_and_refusals(tiny_llama: LlamaForCausalLM) -> None:
    shapes = shapes_of(tiny_llama)
    text = shapes_to_json(shapes)
    assert shapes_from_json(text, "x") == shapes
    for old, new, words in (
        ('"format": 1', '"format": 2', "reads format 1"),
        (f'"vocab_size": {shapes.vocab_size}', '"vocab_size": 1000000000000', "vocab_size is 1000000000000"),
        (f'"hidden_size": {shapes.hidden_size}', '"hidden_size": "a"', "hidden_size is 'a'"),
        ('"key_value_heads": 2', '"key_value_heads": 3', "4 query heads are no multiple of 3"),
        ('"ffn_width"', '"width"', "ffn_width"),
    ):
        assert old in text
        with pytest.raises(IntegrityError, match=words):
            shapes_from_json(text.replace(old, new), "x")


def test_weights_that_contradict_the_manifest_are_refused(
    tiny_llama: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    save_uneven(uneven(tiny_llama), tmp_path / "m", tiny_tokenizer)
    manifest = tmp_path / "m" / SHAPES_FILE
    manifest.write_text(manifest.read_text().replace('"ffn_width": 37', '"ffn_width": 36'))
    with pytest.raises(ModelError, match=r"another shape.*layers\.1\.mlp"):
        open_folder(tmp_path / "m")


def test_config_json_describes_the_smallest_stock_model_around_it(
    tiny_llama: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    save_uneven(uneven(tiny_llama), tmp_path / "m", tiny_tokenizer)
    config = LlamaConfig.from_pretrained(tmp_path / "m")
    # Ratios 2 and 3: 2 key and value heads x 3 do not divide a hidden size of 32, 2 x 4 do.
    assert (config.num_attention_heads, config.num_key_value_heads, config.intermediate_size) == (8, 2, 48)
    assert len(AutoTokenizer.from_pretrained(tmp_path / "m")) == len(tiny_tokenizer)
