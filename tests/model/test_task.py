"""Models with a classification head, and encoder-decoders: what is new in them, and what is refused."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from loratory.config import ModelConfig
from loratory.errors import ModelError
from loratory.model import load_model
from loratory.model.task import ClassHead, head_modules, task_of


def section(folder: Path, **fields: str) -> ModelConfig:
    return ModelConfig(model_name_or_path=str(folder), **fields)


def test_a_reward_head_is_new_seeded_and_named(tiny_llama_dir: Path) -> None:
    first = load_model(section(tiny_llama_dir), head=ClassHead((), seed=3))
    torch.manual_seed(99)
    second = load_model(section(tiny_llama_dir), head=ClassHead((), seed=3))
    other = load_model(section(tiny_llama_dir), head=ClassHead((), seed=4))
    assert first.new_modules == head_modules(first.model) == ("score",)
    assert first.model.score.weight.shape == (1, 32)
    assert torch.equal(first.model.score.weight, second.model.score.weight)
    assert not torch.equal(first.model.score.weight, other.model.score.weight)
    assert first.model.config.pad_token_id == first.tokenizer.pad_token_id
    assert task_of(first.model) == "seq_cls"
    assert first.identity == load_model(section(tiny_llama_dir)).identity


def test_a_head_in_the_files_is_taken_as_it_is(tiny_llama_dir: Path, tmp_path: Path) -> None:
    made = load_model(section(tiny_llama_dir), head=ClassHead(("no", "yes"), seed=3))
    made.model.save_pretrained(tmp_path)
    made.tokenizer.save_pretrained(tmp_path)
    again = load_model(section(tmp_path), head=ClassHead(("no", "yes"), seed=None))
    assert again.new_modules == ()
    assert torch.equal(again.model.score.weight, made.model.score.weight)
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert plain.config.id2label == {0: "no", 1: "yes"}
    with pytest.raises(ModelError, match="another shape"):
        load_model(section(tmp_path), head=ClassHead((), seed=3))


def test_a_head_that_must_be_there_and_is_not(tiny_llama_dir: Path) -> None:
    with pytest.raises(ModelError, match=r"1 weights are missing \(first: score\.weight\)"):
        load_model(section(tiny_llama_dir), head=ClassHead((), seed=None))


def test_task_and_objective_must_agree(tiny_llama_dir: Path) -> None:
    with pytest.raises(ModelError, match=r"model\.task: causal_lm, but the objective scores texts"):
        load_model(section(tiny_llama_dir, task="causal_lm"), head=ClassHead((), seed=1))
    with pytest.raises(ModelError, match=r"model\.task: seq_cls goes with objective\.name reward"):
        load_model(section(tiny_llama_dir, task="seq_cls"))
    with pytest.raises(ModelError, match="does not turn text into text"):
        load_model(section(tiny_llama_dir, task="seq_2_seq_lm"))
