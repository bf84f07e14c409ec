"""Classification through the loop: decoders on the fused path, encoders padded, and the names of classes at the end."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from peft import PeftModel
from transformers import AutoModelForSequenceClassification

from loratory.config import RunConfig
from loratory.data.reader import read_records
from loratory.engine.finished_run import open_run, open_run_session
from loratory.engine.training import run_training
from loratory.errors import ConfigError, DataError

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
LABELS = ("cancel", "price", "roaming")


@pytest.fixture(scope="module")
def texts_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 rows of three classes, told by one word."""
    rows = [
        {"instruction": f"row {i} please {LABELS[i % 3]} {'x' * (i % 5)}", "output": LABELS[i % 3]} for i in range(30)
    ]
    path = tmp_path_factory.mktemp("texts") / "texts.json"
    path.write_text(json.dumps(rows))
    return path


def settings(texts_file: Path, **overrides: object) -> dict[str, object]:
    data = {"data.train": str(texts_file), "data.val_size": 6, "data.template": "plain"}
    train = {"train.num_epochs": 12, "train.eval_steps": 12, "train.learning_rate": 0.005}
    return {"objective.name": "classification", **data, **train, **overrides}


@pytest.fixture(scope="module")
def encoder_dir(_trained_tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:  # type: ignore[no-untyped-def]
    """A random encoder without a head that could be taken over."""

    def make(family: str) -> Path:
        folder = tmp_path_factory.mktemp(f"tiny-{family}")
        sizes = {"vocab_size": len(_trained_tokenizer), "hidden_size": 32, "num_hidden_layers": 2}
        config = transformers.AutoConfig.for_model(
            family, **sizes, num_attention_heads=4, intermediate_size=64, pad_token_id=2, max_position_embeddings=128,
            hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        )  # fmt: skip
        with torch.random.fork_rng():
            torch.manual_seed(0)
            transformers.AutoModelForMaskedLM.from_config(config).save_pretrained(folder)
        _trained_tokenizer.save_pretrained(folder)
        return folder

    return make


def last_evaluation(run: Path) -> dict[str, float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "eval_loss" in line][-1]


@pytest.mark.parametrize("family", ["llama", "bert", "roberta", "deberta-v2"])
def test_learns_names_and_loads_without_us(
    make_config, texts_file, tiny_llama_dir, encoder_dir, family, capsys
) -> None:  # type: ignore[no-untyped-def]
    base = tiny_llama_dir if family == "llama" else encoder_dir(family)
    result = run_training(make_config(settings(texts_file, **{"model.model_name_or_path": str(base)})))
    notes = capsys.readouterr().err
    assert "3 classes: cancel, price, roaming" in notes
    assert f"scoring path: {'fused' if family == 'llama' else 'padded'}" in notes
    evaluation = last_evaluation(result.run_dir)
    if family == "llama":
        assert evaluation["eval_accuracy"] >= 0.8
    assert 0 <= evaluation["eval_macro_f1"] <= 1

    session = open_run_session(*open_run(result.run_dir), base=False, force_template=False, trust_remote_code=False)
    records = read_records(str(texts_file)).records
    predictions = session.predict(records)
    assert {prediction.predict for prediction in predictions} <= set(LABELS)
    plain = PeftModel.from_pretrained(
        AutoModelForSequenceClassification.from_pretrained(base, num_labels=3), result.final_model
    ).eval()
    for record, prediction in list(zip(records, predictions, strict=True))[:6]:
        ids = torch.tensor([session.template.generation_prompt(record)])
        with torch.no_grad():
            assert LABELS[int(plain(input_ids=ids).logits.argmax())] == prediction.predict
    assert json.loads((result.final_model / "config.json").read_text())["id2label"]["1"] == "price"


def test_predict_writes_the_names(make_config, texts_file, tmp_path) -> None:  # type: ignore[no-untyped-def]
    full = {"adapter.method": "full", "train.learning_rate": 3e-3}
    result = run_training(make_config(settings(texts_file, **full)))
    command = [sys.executable, "-m", "loratory", "predict", str(result.run_dir), "--data", str(texts_file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (file,) = (result.run_dir / "predictions").rglob("generated_predictions.jsonl")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(rows) == 30
    assert sum(row["label"] == row["predict"] for row in rows) >= 25


def test_an_unknown_class_and_a_given_order(make_config: Callable[..., RunConfig], texts_file, tmp_path) -> None:  # type: ignore[no-untyped-def]
    other = tmp_path / "other.json"
    other.write_text(json.dumps([{"instruction": "a", "output": "canel"}]))
    with pytest.raises(DataError, match=r"'canel' \(.*other\.json:1\)\. Did you mean 'cancel'\?"):
        run_training(make_config(settings(texts_file, **{"data.val_size": 0, "data.validation": str(other)})))
    names = tmp_path / "labels.txt"
    names.write_text("roaming\nprice\ncancel\nnone\n")
    options = {"objective.classification": {"labels": str(names)}, "train.max_steps": 1, "run.name": "given"}
    result = run_training(make_config(settings(texts_file, **options)))
    found = json.loads((result.final_model / "config.json").read_text())["id2label"]
    assert found == {"0": "roaming", "1": "price", "2": "cancel", "3": "none"}
    with pytest.raises(ConfigError, match="'a' stands twice"):
        run_training(make_config(settings(texts_file, **{"objective.classification": {"labels": ["a", "a"]}})))
    one = tmp_path / "one.json"
    one.write_text(json.dumps([{"instruction": "a", "output": "b"}]))
    with pytest.raises(DataError, match="name 1 classes"):
        run_training(make_config(settings(one, **{"data.val_size": 0, "run.name": "one"})))
