"""Label scoring equals brute force by the model's own forward, on every path, with and without adapter."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PrefixTuningConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from loratory.data.records import Origin, Record, Turn
from loratory.data.templates import bind_template
from loratory.errors import ConfigError, DataError, TemplateError
from loratory.infer.label_prediction import predict_labels
from loratory.infer.label_scoring import choose_labels, label_logprobs
from loratory.infer.label_set import LabelSet, bind_labels, closed_labels, read_labels
from loratory.infer.predict import read_predictions, write_predictions

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")

LABELS = LabelSet(
    tuple("abcdefg"),
    ((60, 61, 7), (60, 62, 63, 7), (60, 62, 65, 7), (70, 71, 7), (70, 72, 7), (80, 81, 7), (90, 91, 7)),
)


def prompts_of(lengths: list[int], *, shared: int) -> list[list[int]]:
    source = torch.Generator().manual_seed(5)
    prefix = torch.randint(50, 300, (shared,), generator=source).tolist()
    return [prefix + torch.randint(50, 300, (n,), generator=source).tolist() for n in lengths]


def sharpen(model: PreTrainedModel) -> PreTrainedModel:
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(5)
    return model.eval()


@torch.no_grad()
def brute_force(model: torch.nn.Module, prompts: list[list[int]], labels: LabelSet) -> torch.Tensor:
    """One plain forward for each pair of prompt and label."""
    table = torch.zeros(len(prompts), len(labels.texts), dtype=torch.float64)
    for row, prompt in enumerate(prompts):
        for column, ids in enumerate(labels.token_ids):
            logits = model(input_ids=torch.tensor([[*prompt, *ids]])).logits[0, -len(ids) - 1 : -1].double()
            table[row, column] = logits.log_softmax(-1)[torch.arange(len(ids)), torch.tensor(ids)].sum()
    return table


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma", "mistral", "gpt2", "bloom"])
def test_choice_and_table_equal_brute_force(tiny_model_dir: Callable[[str], Path], family: str) -> None:
    model = sharpen(AutoModelForCausalLM.from_pretrained(tiny_model_dir(family)))
    prompts = prompts_of([3, 9, 1, 17, 5, 9, 2], shared=20)
    prompts.append(prompts[1])
    expected = brute_force(model, prompts, LABELS)
    assert len(set(expected.argmax(1).tolist())) > 1
    torch.testing.assert_close(
        torch.tensor(label_logprobs(model, prompts, LABELS)).double(), expected, rtol=1e-5, atol=1e-4
    )
    for batch_size in (1, 3, 8):
        choices = choose_labels(model, prompts, LABELS, batch_size=batch_size)
        assert [choice.label for choice in choices] == expected.argmax(1).tolist()
        got = torch.tensor([choice.logprob for choice in choices]).double()
        torch.testing.assert_close(got, expected.amax(1), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("path", ["padded", "tree", "fused"])
def test_every_scorer_path_gives_the_table(tiny_llama: LlamaForCausalLM, path: str) -> None:
    model = get_peft_model(sharpen(tiny_llama), LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    model.eval()
    prompts = prompts_of([3, 9, 1], shared=4)
    expected = brute_force(model, prompts, LABELS)
    got = label_logprobs(model, prompts, LABELS, path=path)
    torch.testing.assert_close(torch.tensor(got).double(), expected, rtol=1e-5, atol=1e-4)
    assert [c.label for c in choose_labels(model, prompts, LABELS)] == expected.argmax(1).tolist()
    with model.disable_adapter():
        base = brute_force(model, prompts, LABELS)
        assert [c.label for c in choose_labels(model, prompts, LABELS)] == base.argmax(1).tolist()
    assert (base - expected).abs().max() > 0.1


def test_an_adapter_that_the_tree_does_not_take_is_padded(tiny_llama: LlamaForCausalLM) -> None:
    torch.manual_seed(0)
    model = get_peft_model(tiny_llama, PrefixTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM")).eval()
    prompts = prompts_of([3, 9], shared=4)
    expected = brute_force(model, prompts, LABELS)
    assert [c.label for c in choose_labels(model, prompts, LABELS)] == expected.argmax(1).tolist()


def test_small_passes_change_nothing(tiny_llama: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    model = sharpen(tiny_llama)
    prompts = prompts_of([3, 9, 30], shared=40)
    whole = label_logprobs(model, prompts, LABELS)
    chosen = choose_labels(model, prompts, LABELS)
    monkeypatch.setattr("loratory.infer.label_scoring.MAX_TREE_TOKENS", 30)
    monkeypatch.setattr("loratory.infer.flat.prompts.MAX_PASS_TOKENS", 7)
    for path in ("padded", "tree"):
        small = torch.tensor(label_logprobs(model, prompts, LABELS, path=path))
        torch.testing.assert_close(small, torch.tensor(whole), rtol=1e-5, atol=1e-4)
    again = choose_labels(model, prompts, LABELS)
    assert [c.label for c in again] == [c.label for c in chosen]
    assert [c.logprob for c in again] == pytest.approx([c.logprob for c in chosen], abs=1e-4)


def test_bad_input(tiny_llama: LlamaForCausalLM) -> None:
    with pytest.raises(DataError, match=r"1 of 2 prompts leave no room for the labels; the longest, prompt 2, has 510"):
        choose_labels(tiny_llama, [[5], [5] * 510], LABELS)
    with pytest.raises(DataError, match="prompt 1 has no tokens"):
        label_logprobs(tiny_llama, [[]], LABELS)
    with pytest.raises(ConfigError, match="batch_size"):
        choose_labels(tiny_llama, [[5]], LABELS, batch_size=0)
    assert choose_labels(tiny_llama, [], LABELS) == []


def row(question: str, answer: str | None) -> Record:
    turns = (Turn("user", question),) + ((Turn("assistant", answer),) if answer is not None else ())
    return Record(turns=turns, origin=Origin("rows.json", 1), fields={"instruction": question, "output": answer or ""})


@pytest.mark.parametrize("name", ["chat", "alpaca", "qwen"])
def test_labels_have_the_tokens_that_training_gives_them(tiny_tokenizer: PreTrainedTokenizerFast, name: str) -> None:
    template = bind_template(name, tiny_tokenizer)
    labels = bind_labels(["cancel_68", "keep"], template, row("first", None))
    for text, ids in zip(labels.texts, labels.token_ids, strict=True):
        trained = template.sequence(row("quite another question", text))
        answer = trained.token_ids[trained.prompt_length :].tolist()
        assert list(ids) == answer[: len(ids)]
        assert ids[-1] in template.stop_token_ids


def test_labels_without_a_stop_token_are_refused(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    template = bind_template("alpaca", tiny_tokenizer)
    template.stop_token_ids = ()
    with pytest.raises(TemplateError, match="no token ends an answer"):
        bind_labels(["a", "b"], template, row("x", None))


def test_predictions_with_and_without_the_table(
    tiny_llama: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    template = bind_template("alpaca", tiny_tokenizer)
    records = [row("cancel it", "cancel"), row("keep it please", None)]
    labels = ["cancel", "keep", "activate"]
    plain = predict_labels(tiny_llama, tiny_tokenizer, template, records, labels)
    table = predict_labels(tiny_llama, tiny_tokenizer, template, records, labels, with_logprobs=True)
    assert [r.predict for r in plain] == [r.predict for r in table]
    assert [r.label for r in plain] == ["cancel", ""]
    for each in table:
        assert each.label_logprobs is not None
        assert max(each.label_logprobs, key=lambda text: (each.label_logprobs or {})[text]) == each.predict
    write_predictions(tmp_path / "p.jsonl", table)
    first = json.loads((tmp_path / "p.jsonl").read_text(encoding="utf-8").split("\n")[0])
    assert list(first) == ["prompt", "label", "predict", "label_logprobs"]
    assert [r.predict for r in read_predictions(tmp_path / "p.jsonl")] == [r.predict for r in plain]


def test_a_closed_set_is_small_and_repeated() -> None:
    assert closed_labels(["b", "a", "b"] * 4) == ("b", "a")
    assert closed_labels(["a"] * 50) is None
    assert closed_labels(["a", "b", "c"] * 3) is None
    assert closed_labels([str(i) for i in range(201)] * 4) is None
    assert closed_labels([None, "", " "]) is None


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("l.txt", b"a\n\nb\na\n", "1 labels stand twice, first 'a'"),
        ("l.txt", b"a\n", "at least two"),
        ("l.txt", b"\xff\n", "byte 0 is not UTF-8"),
        ("l.json", b'{"a": 1}', "JSON list of texts"),
        ("l.json", b"[1", "not JSON"),
        ("l.json", b'["a", " "]', "label 2 is empty"),
    ],
)
def test_bad_label_files(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=words):
        read_labels(tmp_path / name)


def test_label_files(tmp_path: Path) -> None:
    (tmp_path / "l.txt").write_text("keep\r\ncancel it\r\n", encoding="utf-8")
    assert read_labels(tmp_path / "l.txt") == ("keep", "cancel it")
    (tmp_path / "l.json").write_text('["x", "套餐"]', encoding="utf-8")
    assert read_labels(tmp_path / "l.json") == ("x", "套餐")
    with pytest.raises(ConfigError, match="give none, auto, or a file of labels"):
        read_labels(tmp_path / "none.txt")
