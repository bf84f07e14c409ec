"""Which modules a target means, in each family, and what a wrong one is told."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from loratory.adapter.pattern import expand_pattern, match_names
from loratory.adapter.targets import resolve_targets
from loratory.errors import AdapterError

ALL = {
    "llama": {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"},
    "qwen2": {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"},
    "qwen3": {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"},
    "gemma": {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"},
    "mistral": {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"},
    "phi": {"q_proj", "k_proj", "v_proj", "dense", "fc1", "fc2"},
    "gpt2": {"c_attn", "c_proj", "c_fc"},
    "gpt_neox": {"query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"},
    "bloom": {"query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"},
}
DEFAULT = {"gpt2": {"c_attn"}, "gpt_neox": {"query_key_value"}, "bloom": {"query_key_value"}}


@pytest.mark.parametrize("family", list(ALL))
def test_all_and_default_in_each_family(family: str, tiny_model_dir: Callable[[str], Path]) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir(family))
    everything = resolve_targets(model, "all")
    assert set(everything.names) == ALL[family]
    assert not any("head" in name or "embed_out" in name for name in everything.modules)
    assert set(resolve_targets(model, "default").names) == DEFAULT.get(family, {"q_proj", "v_proj"})


def test_list_string_and_full_names_agree(tiny_llama: LlamaForCausalLM) -> None:
    by_list = resolve_targets(tiny_llama, ["q_proj", "v_proj"])
    assert by_list == resolve_targets(tiny_llama, "q_proj, v_proj")
    assert by_list.modules[0] == "model.layers.0.self_attn.q_proj"
    assert len(by_list.modules) == 4
    one = resolve_targets(tiny_llama, ["layers.1.self_attn.q_proj"])
    assert one.modules == one.names == ("model.layers.1.self_attn.q_proj",)


def test_regex_over_full_names(tiny_llama: LlamaForCausalLM) -> None:
    found = resolve_targets(tiny_llama, r".*layers\.1\..*(q|k)_proj")
    assert found.modules == ("model.layers.1.self_attn.q_proj", "model.layers.1.self_attn.k_proj")


def test_exclude(tiny_llama: LlamaForCausalLM) -> None:
    found = resolve_targets(tiny_llama, "all", ["down_proj", "layers.0.mlp.up_proj"])
    assert "down_proj" not in found.names
    assert "model.layers.1.mlp.up_proj" in found.names
    with pytest.raises(AdapterError, match="takes out every module"):
        resolve_targets(tiny_llama, ["q_proj"], ["q_proj"])


def test_head_and_embedding_by_name_only(tiny_llama: LlamaForCausalLM) -> None:
    assert resolve_targets(tiny_llama, ["lm_head", "embed_tokens"]).names == ("embed_tokens", "lm_head")


@pytest.mark.parametrize(
    ("targets", "words"),
    [
        (["q_prj"], r"'q_prj' matches no linear module.*candidates: .*k_proj.*Did you mean 'q_proj'"),
        (["q_prj", "zzz"], r"(?s)'q_prj' matches.*'zzz' matches"),
        (["mlp"], r"'mlp' is a LlamaMLP.*adapts Linear"),
        (["input_layernorm"], r"is a LlamaRMSNorm"),
        ([], "list is empty"),
        ("(q|k)_proj", r"matches no module.*full names look like model\."),
        ("(q_proj", "not a regular expression"),
        ("x" * 300 + "|" + "y" * 300, "has 601 characters; allowed are 500"),
    ],
)
def test_wrong_targets(tiny_llama: LlamaForCausalLM, targets: str | list[str], words: str) -> None:
    with pytest.raises(AdapterError, match=words):
        resolve_targets(tiny_llama, targets)


def test_unknown_family_has_no_default(tiny_llama: LlamaForCausalLM) -> None:
    tiny_llama.config.model_type = "lama"
    with pytest.raises(AdapterError, match=r"no default targets.*Did you mean 'llama'"):
        resolve_targets(tiny_llama, "default")


def test_backtracking_expression_is_stopped() -> None:
    start = time.monotonic()
    with pytest.raises(AdapterError, match="took longer than"):
        match_names(r"(.*?a){20}b", ["a" * 60], key="adapter.targets")
    assert time.monotonic() - start < 20


def test_patterns_become_literal_names() -> None:
    names = ["h.0.q_proj", "h.1.q_proj", "h.1.v_proj"]
    assert expand_pattern({"q_proj": 4}, names, key="rank_pattern") == {"q_proj": 4}
    assert expand_pattern({r"h\.1\..*": 2, "q_proj": 4}, names, key="rank_pattern") == {
        "h.1.q_proj": 2,
        "h.1.v_proj": 2,
        "q_proj": 4,
    }
    with pytest.raises(AdapterError, match="'k_proj' matches no targeted module; targeted are q_proj, v_proj"):
        expand_pattern({"k_proj": 4}, names, key="rank_pattern")
