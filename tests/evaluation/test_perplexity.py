"""Perplexity against the plain computation: the model's own logits, one window at a time."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from loratory.data.sequence import TokenSequence
from loratory.errors import DataError, NumericsError
from loratory.evaluation.corpus import Corpus
from loratory.evaluation.perplexity import likelihoods, row_perplexity, text_perplexity
from loratory.evaluation.windows import Windowing, cut
from loratory.tree.scorers import make_scorer

TEXT = "The quick brown fox jumps over the lazy dog. " * 12


def corpus(text: str = TEXT, join: str | None = None) -> Corpus:
    return Corpus("text", text, join, "text.txt", "0" * 64)


def naive_nats(model: LlamaForCausalLM, ids: list[int], window: int, stride: int) -> tuple[float, int]:
    """Sum of nll and token count, by the loop of the transformers documentation."""
    total, count, last_end = 0.0, 0, 0
    for begin in range(0, max(len(ids) - window, 0) + 1, stride):
        end = min(begin + window, len(ids))
        row = torch.tensor([ids[begin:end]])
        with torch.no_grad():
            logprob = torch.log_softmax(model(row).logits[0].double(), dim=-1)
        for place in range(max(last_end - begin, 1), end - begin):
            total -= float(logprob[place - 1, row[0, place]])
            count += 1
        last_end = end
    return total, count


@pytest.mark.parametrize(("window", "stride"), [(16, 16), (16, 4), (32, 31), (500, 500)])
@pytest.mark.parametrize("pass_tokens", [1, 100])
def test_equals_the_plain_loop(
    tiny_llama: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast, window: int, stride: int, pass_tokens: int
) -> None:
    ids = tiny_tokenizer(TEXT, add_special_tokens=False).input_ids
    total, count = naive_nats(tiny_llama, ids, window, stride)
    found = text_perplexity(
        tiny_llama, tiny_tokenizer, corpus(), windowing=Windowing(window, stride, "no"), pass_tokens=pass_tokens
    )
    by_name = {measure.name.split("@")[0]: measure for measure in found}
    nats = total / count
    assert by_name["perplexity"].value == pytest.approx(math.exp(nats), rel=1e-5)
    assert by_name["bits_per_token"].value == pytest.approx(nats / math.log(2), rel=1e-5)
    per_byte = len(ids) / len(TEXT.encode())
    assert by_name["bits_per_byte"].value == pytest.approx(nats / math.log(2) * per_byte, rel=1e-5)
    assert f"{count} of {len(ids)} tokens" in by_name["perplexity"].definition


@pytest.mark.parametrize("path", ["padded", "tree", "fused"])
def test_every_scorer_path_gives_the_same(tiny_llama: LlamaForCausalLM, path: str) -> None:
    tiny_llama.requires_grad_(False)
    windows = cut(list(range(7, 250)) * 2, Windowing(64, 32, "no"))
    twin = likelihoods(tiny_llama, windows, scorer=make_scorer(tiny_llama, path="padded"))
    found = likelihoods(tiny_llama, windows, scorer=make_scorer(tiny_llama, path=path))  # type: ignore[arg-type]
    np.testing.assert_allclose(found.nll_S, twin.nll_S, rtol=1e-5)
    assert found.num_scored_S.tolist() == [63, *[32] * (len(windows) - 1)]


def test_the_name_carries_every_choice(tiny_llama: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    windowing = Windowing(16, 8, "no")
    whole = text_perplexity(tiny_llama, tiny_tokenizer, corpus(join="\n\n"), windowing=windowing)[0]
    assert whole.name == r"perplexity@window=16,stride=8,join=\n\n,bos=no"
    part = text_perplexity(tiny_llama, tiny_tokenizer, corpus(), windowing=windowing, limit=3)[0]
    assert part.name == "perplexity@window=16,stride=8,join=none,bos=no,first=3"
    assert (part.n, part.n_of) == (3, "windows")
    assert part.low is not None
    assert part.high is not None
    assert part.low <= part.value <= part.high


def test_rows_have_two_definitions(tiny_llama: LlamaForCausalLM) -> None:
    rows = [
        TokenSequence(np.arange(5, 5 + n), np.array([0.0] * 2 + [1.0] * (n - 2), dtype=np.float32), 2) for n in (4, 9)
    ]
    found = likelihoods(tiny_llama, rows)
    tokens, samples = row_perplexity(tiny_llama, rows, on="rows", template="plain")
    assert found.num_scored_S.tolist() == [2, 7]
    assert tokens.value == pytest.approx(math.exp(found.nll_S.sum() / 9))
    assert samples.value == pytest.approx((math.exp(found.nll_S[0] / 2) + math.exp(found.nll_S[1] / 7)) / 2)
    assert samples.name == "perplexity_sample_mean@rows,scored=answer,template=plain"


def test_windows_beyond_the_context_and_broken_models_are_refused(tiny_llama: LlamaForCausalLM) -> None:
    windows = cut([5] * 1200, Windowing(600, 600, "no"))
    with pytest.raises(DataError, match="2 of 2 sequences are longer than the model's context of 512"):
        likelihoods(tiny_llama, windows)
    with torch.no_grad():
        tiny_llama.model.norm.weight.fill_(float("nan"))
    with pytest.raises(NumericsError, match="not finite"):
        likelihoods(tiny_llama, cut([5] * 64, Windowing(64, 64, "no")))


def stories260k(folder: Path) -> LlamaForCausalLM:
    """The pretrained model of the shared data, its rotary pairs permuted to halves."""
    raw = np.fromfile(folder / "stories260K.bin", dtype="<f4")
    numbers = raw[7:]
    dim, hidden, layers, heads, kv = 64, 172, 5, 8, 4
    width = dim // heads
    place = 0

    def take(*shape: int) -> torch.Tensor:
        nonlocal place
        size = math.prod(shape)
        piece = torch.from_numpy(numbers[place : place + size].copy()).reshape(shape)
        place += size
        return piece

    def halves(weight: torch.Tensor) -> torch.Tensor:
        return weight.reshape(-1, width // 2, 2, dim).transpose(1, 2).reshape(-1, dim)

    own = json.loads((folder / "config.json").read_text("utf-8"))
    state = {"model.embed_tokens.weight": take(512, dim)}
    kinds = [
        ("input_layernorm", (dim,)), ("self_attn.q_proj", (dim, dim)), ("self_attn.k_proj", (kv * width, dim)),
        ("self_attn.v_proj", (kv * width, dim)), ("self_attn.o_proj", (dim, dim)), ("post_attention_layernorm", (dim,)),
        ("mlp.gate_proj", (hidden, dim)), ("mlp.down_proj", (dim, hidden)), ("mlp.up_proj", (hidden, dim)),
    ]  # fmt: skip
    for name, shape in kinds:
        for layer in range(layers):
            weight = take(*shape)
            weight = halves(weight) if name.endswith(("q_proj", "k_proj")) else weight
            state[f"model.layers.{layer}.{name}.weight"] = weight
    state["model.norm.weight"] = take(dim)
    state["lm_head.weight"] = state["model.embed_tokens.weight"]
    config = LlamaConfig(
        vocab_size=512, hidden_size=dim, intermediate_size=hidden, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=kv, max_position_embeddings=512, rms_norm_eps=own.get("rms_norm_eps", 1e-5),
        tie_word_embeddings=True,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    model.load_state_dict(state)
    return model.eval()


def test_a_pretrained_model_finds_its_own_story_likely(shared_data: Path) -> None:
    model = stories260k(shared_data / "stories260k")
    with torch.no_grad():
        story = model.generate(torch.tensor([[1]]), max_new_tokens=255, do_sample=False, pad_token_id=2)[0].tolist()
    windows = cut(story, Windowing(128, 128, "no"))
    total, count = naive_nats(model, story, 128, 128)
    found = likelihoods(model, windows)
    own = math.exp(found.nll_S.sum() / found.num_scored_S.sum())
    assert own == pytest.approx(math.exp(total / count), rel=1e-5)
    assert own == pytest.approx(1.65289, abs=1e-4)  # text it wrote itself
    shuffled = np.random.default_rng(0).permutation(story).tolist()
    other = likelihoods(model, cut(shuffled, Windowing(128, 128, "no")))
    assert math.exp(other.nll_S.sum() / other.num_scored_S.sum()) > 20 * own
