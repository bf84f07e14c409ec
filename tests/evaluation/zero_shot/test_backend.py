"""lm-eval's own Hugging Face backend is the reference: the same numbers for any request."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from loratory.errors import ConfigError, DataError, MissingExtraError, ModelError, NumericsError
from loratory.evaluation.zero_shot import backend
from loratory.evaluation.zero_shot.backend import tree_language_model

lm_eval = pytest.importorskip("lm_eval", reason="lm-eval is not installed")

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # PEFT's

QUESTION = "Question: How much is the 9.9 plan?\nAnswer:"
SHOTS = "Question: Please cancel my roaming pack.\nAnswer: cancel_68\n\n"
PAIRS = [
    *((QUESTION, f" {choice}") for choice in ("11.9", "the 9.9 plan", "activate_98|9.9", "yes", "no")),
    *((SHOTS + QUESTION, f" {choice}") for choice in ("yes", "no", "请问如何取消流量包？")),
    ("The quick brown fox  ", "jumps over"),  # spaces move to the continuation
    ("The quick brown fox jumps over the lazy ", " dog"),
    ("", "The quick brown fox"),
    ("", " dog"),
    ("<s>The slow", " brown fox"),  # no second prefix token
    ("Q", " 1"),
]


def requests(kind: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
    from lm_eval.api.instance import Instance

    return [Instance(kind, {}, each, index) for index, each in enumerate(arguments)]


def reference(model: Any, tokenizer: PreTrainedTokenizerFast, **options: Any) -> Any:
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=model, tokenizer=tokenizer, batch_size=3, device="cpu", **options)


def assert_same_likelihoods(
    model: Any, tokenizer: PreTrainedTokenizerFast, pairs: Sequence[tuple[str, str]] = PAIRS, **options: Any
) -> Any:
    asked = requests("loglikelihood", pairs)
    expected = reference(model, tokenizer, **options).loglikelihood(asked, disable_tqdm=True)
    ours = tree_language_model(model, tokenizer, **options)
    got = ours.loglikelihood(asked)
    assert [value for value, _ in got] == pytest.approx([value for value, _ in expected], abs=1e-4)
    assert [greedy for _, greedy in got] == [greedy for _, greedy in expected]
    assert len({round(value, 3) for value, _ in got}) > len(pairs) // 2
    return ours


@pytest.fixture
def sharp_llama(tiny_llama: LlamaForCausalLM) -> LlamaForCausalLM:
    """Far from uniform, so that a wrong position or mask changes numbers by more than any tolerance."""
    with torch.no_grad():
        for name, parameter in tiny_llama.named_parameters():
            if "norm" not in name:
                parameter.mul_(12)
    return tiny_llama


def test_likelihoods_equal_the_hugging_face_backend(
    sharp_llama: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    ours = assert_same_likelihoods(sharp_llama, tiny_tokenizer)
    assert ours.likelihoods.scorer_path == "fused"
    assert all(parameter.requires_grad for parameter in sharp_llama.parameters()), "the model is left as it was"


@pytest.mark.parametrize(("family", "path"), [("gpt2", "tree"), ("bloom", "padded"), ("qwen2", "fused")])
def test_families_equal_the_hugging_face_backend(
    family: str, path: str, tiny_model_dir: Callable[[str], Path], tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir(family))
    options = {"max_length": 512} if family == "bloom" else {}
    assert assert_same_likelihoods(model, tiny_tokenizer, **options).likelihoods.scorer_path == path


def test_adapter_on_base_equals_the_hugging_face_backend(
    sharp_llama: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    plain = tree_language_model(sharp_llama, tiny_tokenizer).loglikelihood(requests("loglikelihood", PAIRS))
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "down_proj"], lora_dropout=0.3, init_lora_weights=False)
    model = peft.get_peft_model(sharp_llama, config)
    model.train()
    ours = tree_language_model(model, tiny_tokenizer)
    adapted = ours.loglikelihood(requests("loglikelihood", PAIRS))
    assert model.training, "the mode is left as it was"
    assert ours.likelihoods.scorer_path == "fused"
    assert adapted != plain
    assert_same_likelihoods(model, tiny_tokenizer)
    merged = model.merge_and_unload()
    values = [v for v, _ in tree_language_model(merged, tiny_tokenizer).loglikelihood(requests("loglikelihood", PAIRS))]
    assert values == pytest.approx([value for value, _ in adapted], abs=1e-3)


def unevenly_pruned(vocab_size: int) -> LlamaForCausalLM:
    """A Llama whose layers were pruned to different widths after loading; its configuration still has the old ones."""
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
    )
    model = LlamaForCausalLM(config).eval()
    for layer, (num_heads, inner) in zip(model.model.layers, ((4, 64), (2, 40), (3, 24)), strict=True):
        width = num_heads * layer.self_attn.head_dim
        for name in ("q_proj", "k_proj", "v_proj"):
            setattr(layer.self_attn, name, torch.nn.Linear(32, width, bias=False))
        layer.self_attn.o_proj = torch.nn.Linear(width, 32, bias=False)
        for name in ("gate_proj", "up_proj"):
            setattr(layer.mlp, name, torch.nn.Linear(32, inner, bias=False))
        layer.mlp.down_proj = torch.nn.Linear(inner, 32, bias=False)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4)
    return model


@pytest.mark.parametrize("is_adapted", [False, True])
def test_unevenly_pruned_model_equals_the_hugging_face_backend(
    tiny_tokenizer: PreTrainedTokenizerFast, is_adapted: bool
) -> None:
    model: Any = unevenly_pruned(len(tiny_tokenizer))
    if is_adapted:
        model = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["v_proj"], init_lora_weights=False))
    assert assert_same_likelihoods(model, tiny_tokenizer).likelihoods.scorer_path == "fused"


def test_contexts_are_truncated_on_the_left(
    sharp_llama: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    long = SHOTS * 3 + QUESTION
    pairs = [*PAIRS[:5], (long, " yes"), (long, " the 9.9 plan"), ("Q", " 11.9" * 3)]
    ours = assert_same_likelihoods(sharp_llama, tiny_tokenizer, pairs, max_length=24)
    lengths = [len(tiny_tokenizer.encode(context + continuation)) for context, continuation in pairs]
    assert ours.likelihoods.num_truncated == sum(length > 25 for length in lengths) > 2
    assert assert_same_likelihoods(sharp_llama, tiny_tokenizer).likelihoods.num_truncated == 0


@pytest.mark.parametrize("add_bos_token", [None, True, False])
def test_tokenizer_that_adds_bos(
    sharp_llama: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast, add_bos_token: bool | None
) -> None:
    tiny_tokenizer._tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", tiny_tokenizer.bos_token_id)]
    )
    ours = assert_same_likelihoods(sharp_llama, tiny_tokenizer, add_bos_token=add_bos_token)
    assert (ours.tok_encode("Q")[0] == tiny_tokenizer.bos_token_id) == (add_bos_token is not False)
    assert ours.tok_encode("<s>Q").count(tiny_tokenizer.bos_token_id) == 1


def test_small_batches_and_every_path_agree(
    sharp_llama: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    asked = requests("loglikelihood", PAIRS)
    expected = tree_language_model(sharp_llama, tiny_tokenizer, path="padded").loglikelihood(asked)
    for path in ("tree", "fused"):
        for budget in (1, 40, 100_000):
            ours = tree_language_model(sharp_llama, tiny_tokenizer, path=path, max_batch_tokens=budget)
            got = ours.loglikelihood(asked)
            assert [v for v, _ in got] == pytest.approx([v for v, _ in expected], abs=1e-4)
            assert [greedy for _, greedy in got] == [greedy for _, greedy in expected]


def test_one_sequence_cut_at_two_places(sharp_llama: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    pairs = [("The quick", " brown fox"), ("The quick brown", " fox")]
    asked = requests("loglikelihood", pairs)
    # With its cache on, lm-eval 0.4.13 gives the shorter continuation the first of the longer one's logits.
    expected = reference(sharp_llama, tiny_tokenizer, logits_cache=False).loglikelihood(asked, disable_tqdm=True)
    got = tree_language_model(sharp_llama, tiny_tokenizer).loglikelihood(asked)
    assert [value for value, _ in got] == pytest.approx([value for value, _ in expected], abs=1e-4)


def test_greedy_continuation_is_told(sharp_llama: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    with torch.no_grad():
        ids = sharp_llama.generate(
            torch.tensor([tiny_tokenizer.encode(QUESTION)]), max_new_tokens=3, do_sample=False, pad_token_id=2
        )[0].tolist()
    context = tiny_tokenizer.encode(QUESTION)
    ours = tree_language_model(sharp_llama, tiny_tokenizer)
    greedy, other = ids[len(context) :], [*ids[len(context) : -1], (ids[-1] + 1) % 400]
    answers = ours._loglikelihood_tokens([(None, context, greedy), (None, context, other)])
    assert [is_greedy for _, is_greedy in answers] == [True, False]


def test_rolling_likelihoods_equal_the_hugging_face_backend(
    sharp_llama: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    texts = [("The quick brown fox jumps over the lazy dog. " * 4,), (QUESTION,), ("请",)]
    asked = requests("loglikelihood_rolling", texts)
    expected = reference(sharp_llama, tiny_tokenizer, max_length=16).loglikelihood_rolling(asked, disable_tqdm=True)
    got = tree_language_model(sharp_llama, tiny_tokenizer, max_length=16).loglikelihood_rolling(asked)
    assert got == pytest.approx(expected, abs=1e-3)
    assert got[0] < got[1] < got[2] < 0


def test_generation_equals_the_hugging_face_backend(
    sharp_llama: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    from loratory.evaluation.zero_shot import continuation

    monkeypatch.setattr(continuation, "ROUND_TOKENS", 4)
    free = reference(sharp_llama, tiny_tokenizer).generate_until(
        requests("generate_until", [(QUESTION, {"until": [], "max_gen_toks": 12})]), disable_tqdm=True
    )[0]
    stop = free[len(free) // 2 : len(free) // 2 + 2]
    arguments = [
        (QUESTION, {"until": [stop], "max_gen_toks": 12}),
        (QUESTION, {"until": [], "max_gen_toks": 12}),
        (SHOTS + QUESTION, {"until": [stop], "max_gen_toks": 12}),
        ("The", {"until": ["\n"], "max_gen_toks": 5}),
        ("The", {"until": "\n", "max_gen_toks": 5, "do_sample": False}),
    ]
    asked = requests("generate_until", arguments)
    expected = reference(sharp_llama, tiny_tokenizer).generate_until(asked, disable_tqdm=True)
    assert tree_language_model(sharp_llama, tiny_tokenizer).generate_until(asked) == expected
    assert stop not in expected[0]
    assert len(expected[0]) < len(expected[1])


def test_sampled_generation_has_a_seed(tiny_llama: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    asked = requests("generate_until", [("The", {"until": [], "max_gen_toks": 8, "do_sample": True, "temperature": 1})])
    texts = [tree_language_model(tiny_llama, tiny_tokenizer, seed=seed).generate_until(asked)[0] for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_progress_counts_requests(tiny_llama: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    seen: list[tuple[int, int]] = []
    ours = tree_language_model(
        tiny_llama, tiny_tokenizer, max_batch_tokens=40, on_progress=lambda done, total: seen.append((done, total))
    )
    ours.loglikelihood(requests("loglikelihood", PAIRS))
    assert len(seen) > 2
    assert seen == sorted(seen)
    assert seen[-1] == (len(PAIRS), len(PAIRS))


def test_bad_requests(tiny_llama: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    ours = tree_language_model(tiny_llama, tiny_tokenizer, max_length=8)
    with pytest.raises(DataError, match=r"request 2 .*continuation has \d+ tokens, the model's context is 8"):
        ours.loglikelihood(requests("loglikelihood", [("Q", " 1"), ("Q", " 11.9" * 9)]))
    with pytest.raises(DataError, match=r"request 1 .*the continuation has no tokens"):
        ours.loglikelihood(requests("loglikelihood", [("Q", "")]))
    with pytest.raises(DataError, match="leave no room for a prompt"):
        ours.generate_until(requests("generate_until", [("Q", {"until": [], "max_gen_toks": 8})]))
    with pytest.raises(ConfigError, match=r"generation_kwargs\.num_beams: not supported"):
        ours.generate_until(requests("generate_until", [("Q", {"until": [], "max_gen_toks": 2, "num_beams": 2})]))
    with pytest.raises(ConfigError, match="max_batch_tokens: got 0"):
        tree_language_model(tiny_llama, tiny_tokenizer, max_batch_tokens=0)


def test_tokenizer_without_prefix_token(tiny_llama: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    tiny_tokenizer.bos_token = tiny_tokenizer.eos_token = None
    with pytest.raises(ModelError, match="neither a BOS nor an EOS token"):
        tree_language_model(tiny_llama, tiny_tokenizer)


def test_weights_that_are_not_finite(tiny_llama: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    with torch.no_grad():
        tiny_llama.get_input_embeddings().weight[tiny_tokenizer.encode("Q")[0]] = float("nan")
    with pytest.raises(NumericsError, match=r"request 1 .*log-likelihood is nan"):
        tree_language_model(tiny_llama, tiny_tokenizer).loglikelihood(requests("loglikelihood", [("Q", " 1")]))


def test_missing_library(
    tiny_llama: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.metadata

    def version(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    with pytest.raises(MissingExtraError, match=r"loratory\[evaluation\]"):
        backend.tree_language_model(tiny_llama, tiny_tokenizer)
