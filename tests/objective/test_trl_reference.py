"""Losses and gradients beside TRL's on the same tokens and weights (TRL is a dependency of this test alone)."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from loratory.config import ObjectiveConfig
from loratory.data.sequence import TokenSequence
from loratory.objective import make_objective
from loratory.objective.row import Row, batch_of
from loratory.tree.build import build_tree
from loratory.tree.scorers import make_scorer

trl = pytest.importorskip("trl", reason="TRL is not installed")

pytestmark = pytest.mark.filterwarnings("ignore")

PAIRS = [
    {"prompt": "How do I cancel roaming?", "chosen": " cancel_68", "rejected": " I do not know"},
    {"prompt": "What does plan B cost?", "chosen": " intro_111|9.9", "rejected": " 9"},
    {"prompt": "Which plan has the most data?", "chosen": " plan_7", "rejected": " plan_5 and more"},
]


def lora() -> LoraConfig:
    return LoraConfig(r=4, target_modules=["q_proj", "up_proj"], init_lora_weights=False, task_type="CAUSAL_LM")


def base(folder: Path) -> PreTrainedModel:
    torch.manual_seed(3)
    return AutoModelForCausalLM.from_pretrained(folder)


def sequence(prompt: list[int], answer: list[int]) -> TokenSequence:
    weights = np.array([0.0] * len(prompt) + [1.0] * len(answer), dtype=np.float32)
    return TokenSequence(np.array(prompt + answer, dtype=np.int64), weights, len(prompt))


def with_reference(rows: list[Row], model: PeftModel) -> list[Row]:
    """Rows with log-probabilities under the base."""
    done = []
    with model.disable_adapter(), torch.no_grad():
        scorer = make_scorer(model, path="padded")
        for row in rows:
            tree = build_tree([*row.sequences, *row.companions])
            nats = tree.sum_by_sequence(scorer.logprobs(tree)).double().numpy()
            facts = {**row.facts, "reference_nats": nats}
            done.append(Row(row.sequences, row.origin, row.count, facts, companions=row.companions))
    return done


def gradients(model: torch.nn.Module, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, atol=1e-5, rtol=1e-4)


def their_inputs(trainer: Any) -> dict[str, Any]:
    return trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))


def arguments(kind: type, folder: Path, **options: Any) -> Any:
    plain = {"report_to": "none", "use_cpu": True, "bf16": False, "gradient_checkpointing": False}
    return kind(output_dir=str(folder), per_device_train_batch_size=len(PAIRS), **plain, **options)


def unpadded(inputs: dict[str, Any], prefix: str = "") -> list[TokenSequence]:
    """Rows of a padded batch of TRL."""
    made = []
    batch = zip(*(inputs[prefix + name] for name in ("input_ids", "attention_mask", "completion_mask")), strict=True)
    for ids, mask, answer in batch:
        real = ids[mask.bool()].tolist()
        num_answer = int(answer.sum())
        made.append(sequence(real[:-num_answer], real[-num_answer:]))
    return made


@pytest.mark.parametrize(("loss", "smoothing"), [("sigmoid", 0.0), ("hinge", 0.0), ("ipo", 0.0), ("robust", 0.1)])
def test_dpo_equals_trl(
    tiny_llama_dir: Path, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path, loss: str, smoothing: float
) -> None:
    from datasets import Dataset

    options = arguments(trl.DPOConfig, tmp_path, loss_type=[loss], beta=0.3, label_smoothing=smoothing)
    trainer = trl.DPOTrainer(
        model=base(tiny_llama_dir),
        args=options,
        train_dataset=Dataset.from_list(PAIRS),
        processing_class=tiny_tokenizer,
        peft_config=lora(),
    )
    model = trainer.model
    inputs = their_inputs(trainer)
    theirs = trainer.compute_loss(model, inputs)
    their_gradients = gradients(model, theirs)

    both = unpadded(inputs)
    pairs = zip(both[: len(PAIRS)], both[len(PAIRS) :], strict=True)
    rows = with_reference([Row(pair, "", 1.0) for pair in pairs], model)
    preference = {"loss": loss, "beta": 0.3, "label_smoothing": smoothing}
    section = ObjectiveConfig.model_validate({"name": "dpo", "preference": preference})
    ours = make_objective(section).loss(make_scorer(model), batch_of(rows))
    assert float(ours.sum.detach()) / ours.count == pytest.approx(float(theirs.detach()), abs=1e-5)
    assert_same(gradients(model, ours.sum / ours.count), their_gradients)


def test_kto_equals_trl(tiny_llama_dir: Path, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    from datasets import Dataset

    answers = [
        {"prompt": pair["prompt"], "completion": pair["chosen" if good else "rejected"], "label": good}
        for pair, good in zip(PAIRS, (True, False, True), strict=True)
    ]
    weights = {"beta": 0.3, "desirable_weight": 1.5, "undesirable_weight": 0.7}
    trainer = trl.KTOTrainer(
        model=base(tiny_llama_dir),
        args=arguments(trl.KTOConfig, tmp_path, **weights),
        train_dataset=Dataset.from_list(answers),
        processing_class=tiny_tokenizer,
        peft_config=lora(),
    )
    model = trainer.model
    inputs = their_inputs(trainer)
    theirs = trainer.compute_loss(model, inputs)
    their_gradients = gradients(model, theirs)

    rows = [
        Row((own,), "", 1.0, {"label": np.array([float(label)])}, companions=(other,))
        for own, other, label in zip(unpadded(inputs), unpadded(inputs, "KL_"), inputs["label"], strict=True)
    ]
    rows = with_reference(rows, model)
    objective = make_objective(ObjectiveConfig.model_validate({"name": "kto", "preference": weights}))
    scorer = make_scorer(model)
    with torch.no_grad():
        statistics = {name: total / n for name, (total, n) in objective.statistics(scorer, rows).items()}
    ours = objective.loss(scorer, batch_of(rows, statistics))
    assert float(ours.sum.detach()) / ours.count == pytest.approx(float(theirs.detach()), abs=1e-5)
    assert_same(gradients(model, ours.sum / ours.count), their_gradients)


def test_simpo_and_odds_ratio_equal_trl(tiny_llama_dir: Path) -> None:
    from trl.experimental.cpo import CPOTrainer
    from trl.experimental.orpo import ORPOTrainer

    model = get_peft_model(base(tiny_llama_dir), lora())
    scorer = make_scorer(model)
    generator = np.random.default_rng(0)
    draw = lambda n: generator.integers(10, 300, n).tolist()  # noqa: E731
    prompts = [draw(5) for _ in range(4)]
    rows = [Row((sequence(p, draw(4)), sequence(p, draw(7))), "", 1.0) for p in prompts]
    batch = batch_of(rows)
    mean_S2 = (batch.tree.sum_by_sequence(scorer.logprobs(batch.tree)) / torch.tensor([4.0, 7.0] * 4)).view(-1, 2)
    on_cpu = SimpleNamespace(device=torch.device("cpu"))

    they = SimpleNamespace(
        alpha=0.0, loss_type="simpo", simpo_gamma=0.6, beta=2.0, label_smoothing=0.1, accelerator=on_cpu
    )
    theirs = CPOTrainer.cpo_loss(they, mean_S2[:, 0], mean_S2[:, 1])[0].mean()
    preference = {"beta": 2.0, "gamma": 0.6, "label_smoothing": 0.1}
    objective = make_objective(ObjectiveConfig.model_validate({"name": "simpo", "preference": preference}))
    ours = objective.loss(scorer, batch)
    assert float(ours.sum.detach()) / ours.count == pytest.approx(float(theirs.detach()), abs=1e-5)
    assert_same(gradients(model, ours.sum / ours.count), gradients(model, theirs))

    mean_S2 = (batch.tree.sum_by_sequence(scorer.logprobs(batch.tree)) / torch.tensor([4.0, 7.0] * 4)).view(-1, 2)
    they = SimpleNamespace(beta=0.4, accelerator=on_cpu)
    losses = ORPOTrainer.odds_ratio_loss(they, mean_S2[:, 0], mean_S2[:, 1])[0]
    theirs = (-mean_S2[:, 0] - losses).mean()
    objective = make_objective(ObjectiveConfig.model_validate({"name": "orpo", "preference": {"beta": 0.4}}))
    ours = objective.loss(scorer, batch)
    assert float(ours.sum.detach()) / ours.count == pytest.approx(float(theirs.detach()), abs=1e-5)
    assert_same(gradients(model, ours.sum / ours.count), gradients(model, theirs))
