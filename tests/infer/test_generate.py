"""Generation equals transformers' greedy `generate` token for token, in any batch, and samples by row alone."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, Gemma3TextConfig, LlamaForCausalLM, PreTrainedModel

from loratory.errors import ConfigError, DataError
from loratory.infer import padded_rows
from loratory.infer.generate import generate
from loratory.infer.sampling import Sampling

# PEFT asks transformers for a property under its old name.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")

STOPS = (7, 8, 11, 12, 13, 40, 41, 42, 43, 44, 45, 46, 47, 48)
FAMILIES = ("llama", "qwen2", "qwen3", "gemma", "mistral", "phi", "gpt2", "gpt_neox", "bloom")


def sharpen(model: PreTrainedModel) -> PreTrainedModel:
    """Widen the weights so that answers vary and logits are far apart."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4)
    return model.eval()


def prompts_of(lengths: list[int], *, shared: int = 0, vocabulary: int = 300) -> list[list[int]]:
    source = torch.Generator().manual_seed(5)
    prefix = torch.randint(50, vocabulary, (shared,), generator=source).tolist()
    return [prefix + torch.randint(50, vocabulary, (n,), generator=source).tolist() for n in lengths]


def reference(model: PreTrainedModel, prompt: list[int], max_new_tokens: int) -> list[int]:
    ids = torch.tensor([prompt])
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=max_new_tokens,
        eos_token_id=list(STOPS),
        pad_token_id=0,
    )[0, len(prompt) :].tolist()
    end = next((i for i, token in enumerate(out) if token in STOPS), len(out))
    return list(out[:end])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("shared", [0, 20])
def test_greedy_equals_transformers(tiny_model_dir: Callable[[str], Path], family: str, shared: int) -> None:
    model = sharpen(AutoModelForCausalLM.from_pretrained(tiny_model_dir(family)))
    prompts = prompts_of([3, 9, 1, 17, 5, 9, 2], shared=shared)
    expected = [reference(model, prompt, 20) for prompt in prompts]
    assert len({tuple(answer) for answer in expected}) > 1
    for batch_size in (1, 3, 7):
        got = generate(model, prompts, stop_token_ids=STOPS, max_new_tokens=20, batch_size=batch_size)
        assert got == expected, f"batch_size {batch_size}"


def test_greedy_equals_transformers_batched_with_padding(tiny_llama: LlamaForCausalLM) -> None:
    model = sharpen(tiny_llama)
    prompts = prompts_of([3, 9, 1, 17])
    width = max(map(len, prompts))
    ids = torch.tensor([[2] * (width - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    out = model.generate(
        ids, attention_mask=mask, do_sample=False, max_new_tokens=12, eos_token_id=list(STOPS), pad_token_id=2
    )[:, width:].tolist()
    expected = [row[: next((i for i, t in enumerate(row) if t in STOPS), len(row))] for row in out]
    assert generate(model, prompts, stop_token_ids=STOPS, max_new_tokens=12, batch_size=4) == expected


@pytest.mark.parametrize("shared", [0, 20])
def test_sliding_window_is_exact(shared: int) -> None:
    config = Gemma3TextConfig(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=128,
        sliding_window=6,
        layer_types=["sliding_attention", "full_attention"],
        pad_token_id=0,
    )
    torch.manual_seed(0)
    model = sharpen(AutoModelForCausalLM.from_config(config))
    prompts = prompts_of([3, 15, 9], shared=shared)
    expected = [reference(model, prompt, 16) for prompt in prompts]
    assert generate(model, prompts, stop_token_ids=STOPS, max_new_tokens=16, batch_size=3) == expected


def test_adapter_counts(tiny_llama: LlamaForCausalLM) -> None:
    model = sharpen(tiny_llama)
    prompts = prompts_of([4, 6, 5])
    before = generate(model, prompts, stop_token_ids=(), max_new_tokens=10, batch_size=3)
    torch.manual_seed(0)
    config = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear", init_lora_weights=False)
    adapted = get_peft_model(model, config).eval()
    got = generate(adapted, prompts, stop_token_ids=STOPS, max_new_tokens=10, batch_size=3)
    assert got == [reference(adapted, prompt, 10) for prompt in prompts]
    assert got != before


def test_finished_rows_leave_the_batch(tiny_llama: LlamaForCausalLM) -> None:
    model = sharpen(tiny_llama)
    prompts = prompts_of([3, 9, 1, 17, 5, 9, 2, 8, 8, 8])
    widths: list[int] = []
    handle = model.model.embed_tokens.register_forward_hook(lambda _m, args, _o: widths.append(args[0].shape[0]))
    stops = tuple(range(0, 400, 6))
    answers = generate(model, prompts, stop_token_ids=stops, max_new_tokens=30, batch_size=10)
    handle.remove()
    lengths = [len(answer) for answer in answers]
    assert len(set(lengths)) > 2
    # Step s runs exactly the rows that have not ended after s tokens.
    assert widths == [10] + [sum(n >= s for n in lengths if n < 30 or s < 30) for s in range(1, len(widths))]
    assert len(widths) == min(max(lengths) + 1, 30)


def test_shared_prefix_is_computed_once(tiny_llama: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = prompts_of([3, 5, 4, 6], shared=24)
    tokens: list[int] = []
    handle = tiny_llama.model.embed_tokens.register_forward_hook(lambda _m, args, _o: tokens.append(args[0].numel()))
    shared = generate(tiny_llama, prompts, stop_token_ids=STOPS, max_new_tokens=1, batch_size=2)
    assert tokens == [24, 12, 8]
    tokens.clear()
    monkeypatch.setattr(padded_rows, "MIN_SHARED_TOKENS", 10**6)
    assert generate(tiny_llama, prompts, stop_token_ids=STOPS, max_new_tokens=1, batch_size=2) == shared
    assert tokens == [60, 56]
    handle.remove()


def test_equal_prompts_keep_one_token_each_to_compute(tiny_llama: LlamaForCausalLM) -> None:
    prompt = prompts_of([30])[0]
    out = generate(tiny_llama, [prompt, prompt], stop_token_ids=STOPS, max_new_tokens=5, batch_size=2)
    assert out == [reference(tiny_llama, prompt, 5)] * 2


def test_sampling_depends_on_the_row_and_not_on_the_batch(tiny_llama: LlamaForCausalLM) -> None:
    model = sharpen(tiny_llama)
    prompts = prompts_of([3, 9, 1, 17, 5, 9, 2])
    sampling = Sampling(temperature=1.5, top_p=0.9, top_k=50, seed=7)

    def run(batch_size: int, seed: int = 7, max_new_tokens: int = 15) -> list[list[int]]:
        choice = Sampling(temperature=sampling.temperature, top_p=0.9, top_k=50, seed=seed)
        return generate(
            model,
            prompts,
            stop_token_ids=STOPS,
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
            sampling=choice,
        )

    alone = run(1)
    assert run(3) == alone
    assert run(7) == alone
    assert run(7, seed=8) != alone
    assert [row[:5] for row in alone] == run(4, max_new_tokens=5)
    same = generate(model, [prompts[0]] * 4, stop_token_ids=(), max_new_tokens=15, batch_size=4, sampling=sampling)
    assert len({tuple(row) for row in same}) == 4


def test_top_k_one_is_greedy(tiny_llama: LlamaForCausalLM) -> None:
    prompts = prompts_of([4, 7])
    greedy = generate(tiny_llama, prompts, stop_token_ids=STOPS, max_new_tokens=8)
    sampled = generate(tiny_llama, prompts, stop_token_ids=STOPS, max_new_tokens=8, sampling=Sampling(top_k=1))
    assert sampled == greedy


def test_model_is_left_as_it_was(tiny_llama: LlamaForCausalLM) -> None:
    tiny_llama.train()
    tiny_llama.model.layers[0].eval()
    modes = [m.training for m in tiny_llama.modules()]
    before = {name: value.clone() for name, value in tiny_llama.state_dict().items()}
    generate(tiny_llama, prompts_of([3, 4]), stop_token_ids=STOPS, max_new_tokens=4)
    assert [m.training for m in tiny_llama.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in tiny_llama.state_dict().items())


def test_progress_and_tokens_are_reported(tiny_llama: LlamaForCausalLM) -> None:
    prompts = prompts_of([3, 9, 1, 5])
    done: list[int] = []
    streamed: list[list[int]] = [[] for _ in prompts]
    answers = generate(
        tiny_llama,
        prompts,
        stop_token_ids=STOPS,
        max_new_tokens=6,
        batch_size=2,
        on_progress=done.append,
        on_token=lambda row, token: streamed[row].append(token),
    )
    assert streamed == answers
    assert done == sorted(done)
    assert done[-1] == 4


def test_no_prompts_no_answers(tiny_llama: LlamaForCausalLM) -> None:
    assert generate(tiny_llama, [], stop_token_ids=STOPS, max_new_tokens=4) == []


def test_prompt_without_room_names_both_numbers(tiny_llama: LlamaForCausalLM) -> None:
    with pytest.raises(DataError, match=r"prompt 2, has 500 tokens.*context of 512 less max_new_tokens 13 leaves 499"):
        generate(tiny_llama, prompts_of([3, 500]), stop_token_ids=STOPS, max_new_tokens=13)
    assert len(generate(tiny_llama, prompts_of([511]), stop_token_ids=(), max_new_tokens=1)[0]) == 1


def test_empty_prompt_is_an_error(tiny_llama: LlamaForCausalLM) -> None:
    with pytest.raises(DataError, match="prompt 2 has no tokens"):
        generate(tiny_llama, [[5], []], stop_token_ids=STOPS, max_new_tokens=4)


def test_limits_below_one_are_refused_together(tiny_llama: LlamaForCausalLM) -> None:
    with pytest.raises(ConfigError, match=r"max_new_tokens: got 0.*\n.*batch_size: got 0"):
        generate(tiny_llama, [[5]], stop_token_ids=STOPS, max_new_tokens=0, batch_size=0)
