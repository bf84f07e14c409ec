"""Ways in which sharing prefixes goes wrong, each held fast by a test. Two of them show what libraries do today."""

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM, DynamicCache, LlamaForCausalLM
from tree_batches import deep_batch, template_batch, trained_tail

from loratory.data.sequence import TokenSequence
from loratory.tree.attention_dense import visible_TT
from loratory.tree.build import build_tree
from loratory.tree.eligibility import eligibility
from loratory.tree.padded import PaddedScorer
from loratory.tree.registry import IMPLEMENTATION, forward_arguments
from loratory.tree.tree import TokenTree
from loratory.tree.tree_scorer import TreeScorer

pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),  # PEFT's
    pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning"),  # old floors
]
CPU = torch.device("cpu")


def equal_scores(model: torch.nn.Module, tree: TokenTree, *, rtol: float = 1e-5) -> None:
    got, want = TreeScorer(model, reason="test").nll(tree), PaddedScorer(model).nll(tree)
    torch.testing.assert_close(got.sum_nats, want.sum_nats, rtol=rtol, atol=0)
    assert (got.num_correct, got.num_labels) == (want.num_correct, want.num_labels)


def test_1_jumping_positions_alone_cut_suffixes_off(tiny_llama: LlamaForCausalLM) -> None:
    """transformers takes every jump of position ids for a document border; so positions alone are not a tree."""
    tree = build_tree(template_batch(300), min_saved_tokens=4)
    right = tiny_llama.model(**dense_arguments(tree)).last_hidden_state[0]
    wrong = tiny_llama.model(
        input_ids=tree.tokens_T[None], position_ids=tree.positions_T[None], use_cache=False
    ).last_hidden_state[0]
    second = tree.segments[2]
    assert (wrong - right)[second.start : second.stop].abs().max() > 0.05
    TreeScorer(tiny_llama, reason="test")
    ours = tiny_llama.model(**forward_arguments(tree, CPU, torch.float32)).last_hidden_state[0]
    torch.testing.assert_close(ours, right, rtol=1e-4, atol=1e-5)


def dense_arguments(tree: TokenTree) -> dict[str, object]:
    return {
        "input_ids": tree.tokens_T[None],
        "position_ids": tree.positions_T[None],
        "attention_mask": visible_TT(tree)[None, None],
        "use_cache": False,
    }


def test_1_a_tree_lost_on_the_way_to_attention_is_an_error(tiny_llama: LlamaForCausalLM) -> None:
    TreeScorer(tiny_llama, reason="test")
    arguments = forward_arguments(build_tree(deep_batch(300)), CPU, torch.float32)
    del arguments["tree_attention"]
    with pytest.raises(RuntimeError):
        tiny_llama.model(**arguments)


def test_2_rows_with_a_cache_leak_into_each_other(tiny_llama: LlamaForCausalLM) -> None:
    """With its default `use_cache` transformers forgets the borders of packed rows; the scorers turn the cache off."""
    tree = build_tree(template_batch(300), share=False)
    packed = {"input_ids": tree.tokens_T[None], "position_ids": tree.positions_T[None]}
    right = tiny_llama.model(**packed, use_cache=False).last_hidden_state[0]
    leaking = tiny_llama.model(**packed, use_cache=True).last_hidden_state[0]
    assert (leaking - right)[tree.segments[1].start :].abs().max() > 0.05
    tiny_llama.config.use_cache = True
    equal_scores(tiny_llama, tree)


def test_3_a_prefix_as_cache_is_lost_under_gradient_checkpointing(tiny_llama: LlamaForCausalLM) -> None:
    """Why the prefix is never handed over as `past_key_values`; the tree path works with checkpointing."""
    model = peft.get_peft_model(tiny_llama, peft.LoraConfig(target_modules="all-linear", init_lora_weights=False))
    model.train()
    tree = build_tree(deep_batch(300), min_saved_tokens=4)
    want = gradient(model, PaddedScorer(model).nll(tree).sum_nats)
    model.get_base_model().gradient_checkpointing_enable({"use_reentrant": False})
    cache = DynamicCache(config=tiny_llama.config)
    model(input_ids=tree.tokens_T[None, :5], past_key_values=cache, use_cache=True)
    assert cache.get_seq_length() == 0
    got = gradient(model, TreeScorer(model, reason="test").nll(tree).sum_nats)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


def gradient(model: torch.nn.Module, loss: torch.Tensor) -> torch.Tensor:
    model.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def test_4_one_dropout_mask_for_shared_tokens_is_refused(tiny_llama: LlamaForCausalLM) -> None:
    for config in (
        peft.LoraConfig(target_modules=["q_proj"], lora_dropout=0.05),
        peft.LoraConfig(target_modules=["q_proj"]),
    ):
        model = peft.get_peft_model(copy.deepcopy(tiny_llama), config)
        assert (eligibility(model).training_refusal is None) == (config.lora_dropout == 0)


def test_5_first_answer_tokens_are_predicted_by_the_shared_last_token(tiny_llama: LlamaForCausalLM) -> None:
    prompt = list(range(10, 40))
    tree = build_tree([trained_tail([*prompt, token], 30) for token in (50, 51, 52)])
    assert tree.predictors_N.tolist() == [29, 29, 29]
    equal_scores(tiny_llama, tree)


def test_6_shared_labels_count_once_for_each_sequence(tiny_llama: LlamaForCausalLM) -> None:
    batch = [trained_tail([*range(10, 40), *tail], 3) for tail in ([5, 6, 7], [8, 9])]
    tree = build_tree(batch)
    assert tree.weight_sum == sum(sequence.num_supervised for sequence in batch)
    assert sorted(set(tree.weights_N.tolist())) == [1.0, 2.0]
    equal_scores(tiny_llama, tree)


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0},
        {
            "rope_type": "longrope",
            "rope_theta": 10000.0,
            "factor": 4.0,
            "short_factor": [1.0] * 4,
            "long_factor": [3.0] * 4,
            "original_max_position_embeddings": 64,
        },
    ],
    ids=["dynamic", "longrope"],
)
def test_7_rope_that_switches_on_length_goes_by_position(rope: dict[str, object]) -> None:
    """Many rows make a long flat tree of short paths; the switch must not see the flat length."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        rope_parameters=rope,
    )
    model = LlamaForCausalLM(config).eval()
    short = build_tree(template_batch(300, num_rows=12), min_saved_tokens=4)
    assert short.num_tokens > 64 > int(short.positions_T.max())
    equal_scores(model, short)
    long = build_tree([*template_batch(300), trained_tail(list(range(10, 100)), 80)], min_saved_tokens=4)
    assert int(long.positions_T.max()) > 64
    equal_scores(model, long)


@pytest.mark.parametrize("window", [16, 30, 64])
def test_8_paths_beyond_a_sliding_window_are_padded(window: int) -> None:
    torch.manual_seed(0)
    config = transformers.MistralConfig(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=window,
    )
    model = transformers.MistralForCausalLM(config).eval()
    tree = build_tree(deep_batch(300), min_saved_tokens=4)
    assert 30 < int(tree.positions_T.max()) < 64
    equal_scores(model, tree)
    unlimited = copy.deepcopy(model)
    unlimited.config.sliding_window = None
    for layer in unlimited.model.layers:
        layer.self_attn.sliding_window = None
    with torch.no_grad():
        difference = PaddedScorer(unlimited).nll(tree).sum_nats - PaddedScorer(model).nll(tree).sum_nats
    assert (float(difference.abs()) > 1e-4) == (window < 40)


def test_9_prefixes_are_found_in_tokens_not_in_text(tiny_tokenizer: transformers.PreTrainedTokenizerFast) -> None:
    """Two prompts share all the text of the shorter one, but a merge across its end makes other tokens."""
    text = "appropriately completes the request"
    whole = tiny_tokenizer.encode(text)
    parts = (tiny_tokenizer.encode(text[:end]) for end in range(3, len(text)))
    part = next(part for part in parts if whole[: len(part)] != part)
    batch = [trained_tail([*whole, 7, 8], len(whole)), trained_tail([*part, 7, 8], len(part))]
    tree = build_tree(batch, min_saved_tokens=1)
    shared = tree.segments[0].stop
    assert shared < min(len(whole), len(part))
    assert whole[:shared] == part[:shared] == tree.tokens_T[:shared].tolist()


def test_9_a_sequence_that_is_a_prefix_of_another(tiny_llama: LlamaForCausalLM) -> None:
    ids = list(range(10, 45))
    equal_scores(tiny_llama, build_tree([trained_tail(ids, 5), trained_tail(ids[:20], 5), trained_tail(ids[:21], 20)]))


@pytest.mark.parametrize("family", ["mamba", "qwen3_next", "jamba", "falcon_h1", "llama4_text", "gemma2", "t5"])
def test_10_other_ways_of_seeing_a_row_are_padded(family: str) -> None:
    """State-space and linear attention, chunks, soft-capped scores, encoder-decoders: not in the list of families."""
    config = transformers.AutoConfig.for_model(family)

    class Model(torch.nn.Module):
        pass

    model = Model()
    model.config = config
    assert family in (eligibility(model).refusal or "")


def test_10_router_noise_is_refused_while_training() -> None:
    config = transformers.MixtralConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_local_experts=2,
        router_jitter_noise=0.1,
    )
    assert "router_jitter_noise" in (eligibility(AutoModelForCausalLM.from_config(config)).training_refusal or "")


def test_11_half_precision_gradients_stay_close(tiny_llama: LlamaForCausalLM) -> None:
    """Many sequences add into the shared prefix; in bf16 the error stays that of bf16, not of a hundred roundings."""
    rng = np.random.default_rng(0)
    template = rng.integers(3, 300, 20)
    batch = []
    for _ in range(64):
        ids = np.concatenate([template, rng.integers(3, 300, 4)])
        batch.append(TokenSequence(ids, (np.arange(24) >= 21).astype(np.float32), 21))
    tree = build_tree(batch)
    config = peft.LoraConfig(target_modules=["k_proj", "v_proj"], init_lora_weights=False)
    model = peft.get_peft_model(tiny_llama, config)
    want = gradient(model, PaddedScorer(model).nll(tree).sum_nats)
    half = model.to(torch.bfloat16)
    errors = {
        name: float((gradient(half, scorer.nll(tree).sum_nats).float() - want).norm() / want.norm())
        for name, scorer in (("tree", TreeScorer(half, reason="test")), ("padded", PaddedScorer(half)))
    }
    assert errors["tree"] < max(0.02, 1.5 * errors["padded"]), errors


def test_12_the_batch_is_taken_in_any_order(tiny_llama: LlamaForCausalLM) -> None:
    batch = deep_batch(300)
    scorer = TreeScorer(tiny_llama, reason="test")
    forward, backward = build_tree(batch, min_saved_tokens=4), build_tree(batch[::-1], min_saved_tokens=4)
    assert torch.equal(forward.tokens_T, backward.tokens_T)
    torch.testing.assert_close(
        forward.sum_by_sequence(scorer.logprobs(forward)), backward.sum_by_sequence(scorer.logprobs(backward)).flip(0)
    )


def test_generation_is_unchanged_by_the_registered_attention(tiny_model_dir: Callable[[str], Path]) -> None:
    plain = AutoModelForCausalLM.from_pretrained(tiny_model_dir("llama")).eval()
    scored = AutoModelForCausalLM.from_pretrained(tiny_model_dir("llama")).eval()
    TreeScorer(scored, reason="test")
    assert scored.config._attn_implementation == IMPLEMENTATION
    rows = torch.tensor([[2, 2, 30, 40, 50], [60, 61, 62, 63, 64]])
    arguments = {"attention_mask": (rows != 2).long(), "max_new_tokens": 6, "do_sample": False, "pad_token_id": 2}
    assert torch.equal(plain.generate(rows, **arguments), scored.generate(rows, **arguments))
    torch.testing.assert_close(plain(rows).logits, scored(rows).logits)


def test_tree_scorer_trains_the_head_and_everything_else(tiny_llama: LlamaForCausalLM) -> None:
    tree = build_tree(deep_batch(300), min_saved_tokens=4)
    for tied in (False, True):
        model = copy.deepcopy(tiny_llama)
        if tied:
            model.lm_head.weight = model.model.embed_tokens.weight
        want = gradient(model, PaddedScorer(model).nll(tree).sum_nats)
        got = gradient(model, TreeScorer(model, reason="test").nll(tree).sum_nats)
        assert len(want) == sum(p.numel() for p in model.parameters())
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


def test_tree_scorer_trains_a_saved_head_beside_lora(tiny_llama: LlamaForCausalLM) -> None:
    config = peft.LoraConfig(target_modules=["q_proj"], modules_to_save=["lm_head"], init_lora_weights=False)
    model = peft.get_peft_model(tiny_llama, config)
    tree = build_tree(deep_batch(300), min_saved_tokens=4)
    want = gradient(model, PaddedScorer(model).nll(tree).sum_nats)
    torch.testing.assert_close(
        gradient(model, TreeScorer(model, reason="test").nll(tree).sum_nats), want, rtol=1e-4, atol=1e-4
    )


@pytest.mark.filterwarnings("ignore:In CPU autocast, but the target dtype is not supported")
def test_tree_scorer_under_autocast(tiny_llama: LlamaForCausalLM) -> None:
    tree = build_tree(deep_batch(300), min_saved_tokens=4)
    with torch.autocast("cpu", torch.bfloat16):
        got, want = TreeScorer(tiny_llama, reason="test").nll(tree), PaddedScorer(tiny_llama).nll(tree)
    torch.testing.assert_close(got.sum_nats, want.sum_nats, rtol=3e-3, atol=0)
