"""The reward model's loss and gradients beside those of TRL's RewardTrainer, on the same pairs and weights."""

from pathlib import Path

import pytest
import torch
from peft import PeftModel

from loratory.adapter import attach_adapter
from loratory.config import AdapterConfig, ModelConfig
from loratory.data.records import Origin, Record, Turn
from loratory.data.templates import bind_template
from loratory.model import load_model
from loratory.model.task import ClassHead
from loratory.objective.reward import RewardObjective
from loratory.objective.row import Row, batch_of
from loratory.tree.scorers import make_scorer

trl = pytest.importorskip("trl", reason="TRL is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")

ASKED = ["Please cancel my roaming pack.", "How much is the 9.9 plan?", "the quick brown fox", "yes or no?"]
CHOSEN = ["cancel_68", "intro_111|9.9|11.9", "jumps over the lazy dog", "yes"]
REJECTED = ["no", "the answer is 9", "The answer is yes.", "no, no, no"]
MARGINS = (0.5, None, 1.5, None)


@pytest.mark.parametrize(("coefficient", "has_margins"), [(0.0, False), (0.01, True)])
@pytest.mark.parametrize("path", ["fused", "tree", "padded"])
def test_loss_and_gradients_are_trls(
    tiny_llama_dir: Path, tmp_path: Path, path: str, coefficient: float, has_margins: bool
) -> None:
    section = ModelConfig(model_name_or_path=str(tiny_llama_dir))
    loaded = load_model(section, head=ClassHead((), seed=3))
    model = attach_adapter(loaded.model, AdapterConfig(rank=4), seed=1, new_modules=loaded.new_modules).model
    generator = torch.Generator().manual_seed(5)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    objective = RewardObjective(center_coefficient=coefficient)
    template = bind_template("alpaca", loaded.tokenizer)
    rows = []
    for i, (asked, chosen, rejected) in enumerate(zip(ASKED, CHOSEN, REJECTED, strict=True)):
        margin = MARGINS[i] if has_margins else None
        record = Record((Turn("user", asked),), Origin("rows", i), alternatives=(chosen, rejected), margin=margin)
        sequences = objective.sequences(record, template)
        rows.append(Row(sequences, str(record.origin), objective.count(sequences), objective.facts(record)))

    trainer = _trainer(model, loaded.tokenizer, rows, coefficient, has_margins, tmp_path)
    inputs = next(iter(trainer.get_train_dataloader()))
    model.zero_grad()
    expected = trainer.compute_loss(model, dict(inputs))
    expected.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()

    loss = objective.loss(make_scorer(model, path=path), batch_of(rows))
    (loss.sum / loss.count).backward()
    assert float(loss.sum / loss.count) == pytest.approx(float(expected), abs=1e-6)
    assert len(gradients) == 2 * 14 + 1
    for name, gradient in gradients.items():
        own = model.get_parameter(name).grad
        assert own is not None
        assert float((own - gradient).norm()) <= 1e-5 * float(gradient.norm()), name
    logged = {name: values[-1] for name, values in trainer._metrics["train"].items()}
    means = objective.summary(loss.metrics)
    assert means["accuracy"] == pytest.approx(logged["accuracy"])
    assert means["reward_margin"] == pytest.approx(logged["margin"], abs=1e-5)


def _trainer(model: PeftModel, tokenizer, rows, coefficient: float, has_margins: bool, folder: Path):  # type: ignore[no-untyped-def]
    from datasets import Dataset

    data = [
        {
            "chosen_ids": row.sequences[0].token_ids[:-1].tolist(),
            "rejected_ids": row.sequences[1].token_ids[:-1].tolist(),
        }
        | ({"margin": float(row.facts["margin"][0]) if "margin" in row.facts else 0.0} if has_margins else {})
        for row in rows
    ]
    options = trl.RewardConfig(
        output_dir=str(folder),
        per_device_train_batch_size=len(rows),
        center_rewards_coefficient=coefficient or None,
        report_to="none",
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        max_length=None,
        seed=5,
    )
    return trl.RewardTrainer(
        model=model, args=options, train_dataset=Dataset.from_list(data), processing_class=tokenizer
    )
