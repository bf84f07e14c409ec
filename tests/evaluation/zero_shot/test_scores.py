"""Whole tasks: lm-eval's scores on local files, results one by one, and what is refused."""

import json
import logging
import random
from pathlib import Path
from typing import Any

import peft
import pytest
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from loratory.errors import ConfigError, DataError
from loratory.evaluation.zero_shot import TASKS, zero_shot_scores
from loratory.evaluation.zero_shot.task import load_task, quiet_lm_eval

pytest.importorskip("lm_eval", reason="lm-eval is not installed")

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # PEFT's

WORDS = ["plan", "roaming", "pack", "quick", "brown", "fox", "answer", "yes", "no", "cancel", "question", "lazy", "dog"]


def made_rows(task: str, num_rows: int = 9) -> list[dict[str, Any]]:
    """Rows of a task in a layout of its local files."""
    rng = random.Random(task)

    def text() -> str:
        return " ".join(rng.choices(WORDS, k=rng.randint(2, 6)))

    def row() -> dict[str, Any]:
        match task:
            case "boolq":
                return {"question": text(), "passage": text(), "answer": rng.random() < 0.5}
            case "piqa":
                return {"goal": text(), "sol1": text(), "sol2": text(), "label": rng.randint(0, 1)}
            case "hellaswag":
                return {"query": text(), "choices": [text() for _ in range(4)], "gold": rng.randint(0, 3)}
            case "winogrande":
                sentence = f"{text()} _ {text()}"
                return {"sentence": sentence, "option1": text(), "option2": text(), "answer": str(rng.randint(1, 2))}
            case _:
                num_choices = rng.randint(3, 5)
                return {
                    "question": text(),
                    "choices": [text() for _ in range(num_choices)],
                    "gold": rng.randrange(num_choices),
                }

    return [row() for _ in range(num_rows)]


FILES = {
    "boolq": "boolq_validation.jsonl",
    "piqa": "piqa_valid.jsonl",
    "hellaswag": "hellaswag_val.jsonl",
    "winogrande": "winogrande_xl_validation.jsonl",
    "arc_easy": "arc_easy_test.jsonl",
    "arc_challenge": "arc_challenge_validation.jsonl",
    "openbookqa": "openbookqa_test.jsonl",
}


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    for task, name in FILES.items():
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in made_rows(task)), encoding="utf-8")
    return tmp_path


def reference_scores(
    model: Any, tokenizer: PreTrainedTokenizerFast, task: str, data_dir: Path, *, num_fewshot: int, limit: int | None
) -> dict[str, float]:
    """lm-eval with its own Hugging Face backend on the same task object."""
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM

    loaded = load_task(task, data_dir=data_dir, num_fewshot=num_fewshot, seed=7)
    with quiet_lm_eval():
        backend = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=4)
        results = evaluate(backend, {"tasks": {task: loaded.task}}, limit=limit)["results"][task]
    return {key: value for key, value in results.items() if isinstance(value, float)}


@pytest.mark.parametrize("num_fewshot", [0, 2])
def test_every_task_scores_as_lm_eval_does(
    tiny_llama: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast, data_dir: Path, num_fewshot: int
) -> None:
    seen: list[tuple[str, int, int]] = []
    results = list(
        zero_shot_scores(
            tiny_llama,
            tiny_tokenizer,
            data_dir=data_dir,
            limit=7,
            num_fewshot=num_fewshot,
            seed=7,
            on_progress=lambda task, done, total: seen.append((task, done, total)),
        )
    )
    assert [result.task for result in results] == list(TASKS)
    for result in results:
        expected = reference_scores(tiny_llama, tiny_tokenizer, result.task, data_dir, num_fewshot=num_fewshot, limit=7)
        assert result.source.kind == "local"
        assert FILES[result.task] in result.source.sha256
        assert (result.num_fewshot, result.limit, result.scorer_path) == (num_fewshot, 7, "fused")
        assert "acc" in result.scores
        for name, score in result.scores.items():
            assert score.value == pytest.approx(100 * expected[f"{name},none"])
            assert score.standard_error == pytest.approx(100 * expected[f"{name}_stderr,none"])
            assert score.low <= score.value <= score.high
            assert score.n == 7
            assert f"lm-eval {result.lm_eval_version}, task {result.task} {result.task_version}" in score.definition
    assert {task for task, _, _ in seen} == set(TASKS)
    assert all(0 < done <= total for _, done, total in seen)


def test_results_come_one_by_one(
    tiny_llama: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast, data_dir: Path
) -> None:
    started: list[str] = []
    results = zero_shot_scores(
        tiny_llama,
        tiny_tokenizer,
        tasks=["piqa", "boolq"],
        data_dir=data_dir,
        on_progress=lambda task, done, total: started.append(task),
    )
    assert started == []
    assert next(results).task == "piqa"
    assert set(started) == {"piqa"}


def test_adapter_changes_scores_and_logs_stay_quiet(
    tiny_llama: LlamaForCausalLM,
    tiny_tokenizer: PreTrainedTokenizerFast,
    data_dir: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    level = logging.getLogger("lm_eval").level
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "up_proj"], init_lora_weights=False)
    model = peft.get_peft_model(tiny_llama, config)
    (result,) = zero_shot_scores(model, tiny_tokenizer, tasks=["openbookqa"], data_dir=data_dir)
    assert capsys.readouterr().err == ""
    expected = reference_scores(model, tiny_tokenizer, "openbookqa", data_dir, num_fewshot=0, limit=None)
    assert result.scores["acc_norm"].value == pytest.approx(100 * expected["acc_norm,none"])
    assert result.scores["acc"].n == 9
    assert logging.getLogger("lm_eval").level == level
    assert not [record for record in caplog.records if record.name.startswith("lm_eval.api")]


def test_a_document_is_never_its_own_example(data_dir: Path) -> None:
    loaded = load_task("hellaswag", data_dir=data_dir, num_fewshot=8, seed=1)
    assert loaded.source.fewshot_split == loaded.source.split == "validation"
    loaded.task.build_all_requests()
    for instance in loaded.task.instances:
        own = f"{instance.doc['query']} {instance.doc['choices'][instance.doc['label']]}"
        *examples, document = instance.args[0].split("\n\n")
        assert document == instance.doc["query"]
        assert len(examples) == 8
        assert own not in examples


def test_raw_hellaswag_rows_are_processed_by_lm_eval(tmp_path: Path) -> None:
    raw = {
        "activity_label": "Dogs",
        "ctx_a": "A dog [title] runs.",
        "ctx_b": "the fox",
        "endings": ["jumps [step] high.", "sleeps."],
        "label": 1,
    }
    (tmp_path / "hellaswag_val.jsonl").write_text(json.dumps(raw) + "\n" + json.dumps(raw) + "\n")
    loaded = load_task("hellaswag", data_dir=tmp_path, num_fewshot=0, seed=1)
    loaded.task.build_all_requests()
    assert [instance.args for instance in loaded.task.instances][:2] == [
        ("Dogs: A dog. runs. The fox", " jumps high."),
        ("Dogs: A dog. runs. The fox", " sleeps."),
    ]


def test_bad_arguments_are_told_together(
    tiny_llama: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast, data_dir: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        zero_shot_scores(
            tiny_llama, tiny_tokenizer, tasks=["hellaswg", "piqa", "piqa"], data_dir=data_dir, limit=0, num_fewshot=-1
        )
    for part in ("unknown task 'hellaswg'", "Did you mean 'hellaswag'?", "'piqa' is named twice", "limit: got 0"):
        assert part in str(caught.value)
    with pytest.raises(ConfigError, match="none was named"):
        zero_shot_scores(tiny_llama, tiny_tokenizer, tasks=[], data_dir=data_dir)
    with pytest.raises(DataError, match="no such folder"):
        zero_shot_scores(tiny_llama, tiny_tokenizer, data_dir=data_dir / "missing")


def test_offline_without_files_names_every_task_and_what_to_do(
    tiny_llama: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    with pytest.raises(DataError) as caught:
        zero_shot_scores(tiny_llama, tiny_tokenizer, tasks=["arc_easy", "boolq"], data_dir=tmp_path)
    message = str(caught.value)
    assert f"arc_easy: none of arc_easy_test.jsonl, arc_easy_validation.jsonl is in {tmp_path}" in message
    assert "boolq: none of boolq_validation.jsonl" in message
    assert "run once with network access" in message


def test_too_few_rows_for_examples(
    tiny_llama: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast, data_dir: Path
) -> None:
    with pytest.raises(DataError, match=r"piqa: 9 examples were asked for, .* has only 9 rows"):
        zero_shot_scores(tiny_llama, tiny_tokenizer, tasks=["piqa"], data_dir=data_dir, num_fewshot=9)
