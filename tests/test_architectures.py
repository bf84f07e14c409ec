"""Conformance of every supported family: learns eight rows by heart, stops, saves, loads, merges."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from loratory.adapter import describe_adapter
from loratory.adapter.merge import merge_adapter
from loratory.config import AdapterConfig, DataConfig, ModelConfig, OutputConfig, RunConfig, TrainConfig
from loratory.data.reader import read_records
from loratory.engine.training import run_training
from loratory.infer.session import Session, open_session

FAMILIES = ["llama", "qwen2", "qwen3", "gemma", "mistral", "phi", "gpt2", "gpt_neox", "bloom"]
ROWS = [
    {"instruction": question, "output": answer}
    for question, answer in [
        ("cancel roaming", "cancel_68"),
        ("the 9.9 plan?", "intro_111|9.9"),
        ("yes or no", "yes"),
        ("no or yes", "no"),
        ("quick fox", "jumps over"),
        ("取消", "取消_1"),
        ("开通", "activate_98"),
        ("who is it", "the dog"),
    ]
]
MAX_NEW_TOKENS = 24


def predict(session: Session, rows: Path) -> list[str]:
    records = read_records(str(rows), format="alpaca", columns={}, system=None, max_bad_rows=0).records
    return [found.predict for found in session.predict(records, max_new_tokens=MAX_NEW_TOKENS, batch_size=8)]


@pytest.mark.parametrize("family", FAMILIES)
def test_family_learns_stops_saves_loads_and_merges(
    family: str, tiny_model_dir: Callable[[str], Path], tmp_path: Path
) -> None:
    rows = tmp_path / "rows.json"
    rows.write_text(json.dumps(ROWS))
    base = ModelConfig(model_name_or_path=str(tiny_model_dir(family)))
    config = RunConfig(
        model=base,
        data=DataConfig(train=str(rows), template="chat"),
        # A random head of width 32 cannot be spoken through: the hidden states would have to be far longer than any
        # norm lets them be. So the head is trained too, which also covers whole modules, tied to the embedding or not.
        adapter=AdapterConfig(rank=16, modules_to_save=[head_name(family, tiny_model_dir)]),
        train=TrainConfig(max_steps=160, batch_size=8, learning_rate=1e-2, save_steps=160, logging_steps=40),
        run=OutputConfig(name=family, output_dir=str(tmp_path / "runs")),
    )
    result = run_training(config)
    answers = [row["output"] for row in ROWS]

    adapted = open_session(base, result.final_model, "chat", contract_file=result.run_dir / "template.json")
    assert predict(adapted, rows) == answers
    with_base = open_session(base, None, "chat")
    assert predict(with_base, rows) != answers
    assert not describe_adapter(result.final_model).has_no_effect

    certificate = merge_adapter(base, result.final_model, tmp_path / "merged")
    assert certificate.dtype == "float32"
    merged = open_session(ModelConfig(model_name_or_path=str(tmp_path / "merged")), None, "chat")
    assert predict(merged, rows) == answers
    stock = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert sum(p.numel() for p in stock.parameters()) == sum(p.numel() for p in with_base.model.parameters())


def head_name(family: str, tiny_model_dir: Callable[[str], Path]) -> str:
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir(family))
    return next(name for name, module in model.named_modules() if module is model.get_output_embeddings())
