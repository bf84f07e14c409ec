"""GRPO and RLOO beside TRL's: TRL samples and judges, both compute advantages, loss and gradients."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from loratory.data.sequence import TokenSequence
from loratory.objective.group_objective import GroupObjective, GrpoObjective, RlooObjective
from loratory.objective.judge import VerifiableJudge, exact_match
from loratory.objective.rollout import Rollout, RolloutSettings
from loratory.objective.rollout_objective import GROUP, OLD_NATS, REFERENCE_NATS, REWARD, UpdatePlan
from loratory.objective.row import Row, batch_of
from loratory.tree.scorers import make_scorer

trl = pytest.importorskip("trl", reason="TRL is not installed")

pytestmark = pytest.mark.filterwarnings("ignore")

GROUP_SIZE, LONGEST = 4, 8
PROMPTS = [{"prompt": "Please cancel my roaming pack."}, {"prompt": "How much is the 9.9 plan?"}]
ROLLOUT = Rollout(RolloutSettings(GROUP_SIZE, LONGEST), VerifiableJudge(exact_match, needs_label=True))
PLAN = UpdatePlan(prompts=2, epochs=2, mini_batches=1)


def letters(completions: list[str], **_: Any) -> list[float]:
    return [float(sum(c in "aeiou0123" for c in text)) for text in completions]


def trainer_of(kind: str, folder: Path, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, **options: Any) -> Any:
    from datasets import Dataset

    torch.manual_seed(3)
    settings: Any = getattr(trl, f"{kind}Config")(
        output_dir=str(tmp_path),
        per_device_train_batch_size=GROUP_SIZE * len(PROMPTS),
        num_generations=GROUP_SIZE,
        max_completion_length=LONGEST,
        gradient_accumulation_steps=1,
        report_to="none",
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        temperature=1.0,
        seed=5,
        **options,
    )
    lora = LoraConfig(r=4, target_modules=["q_proj", "up_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    trainer = getattr(trl, f"{kind}Trainer")(
        model=AutoModelForCausalLM.from_pretrained(folder),
        reward_funcs=letters,
        args=settings,
        train_dataset=Dataset.from_list(PROMPTS),
        processing_class=tokenizer,
        peft_config=lora,
    )
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()
    return trainer


@pytest.fixture(scope="module")
def grpo_trainer(tiny_llama_dir: Path, _trained_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One trainer with a rollout of its own; tests set which loss it computes."""
    folder = tmp_path_factory.mktemp("grpo")
    trainer = trainer_of("GRPO", tiny_llama_dir, _trained_tokenizer, folder, beta=0.1, epsilon=0.2, epsilon_high=0.28)
    trainer.rollout = sampled(trainer)
    trainer.moved_nats = moved(their_nats(trainer, trainer.rollout))
    return trainer


def sampled(trainer: Any) -> dict[str, Any]:
    """TRL's own rollout, with log-probabilities of a policy that has moved on since, so that clipping acts."""
    inputs: dict[str, Any] = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    return inputs


def moved(nats: torch.Tensor) -> torch.Tensor:
    return nats + 0.3 * torch.randn(nats.shape, generator=torch.Generator().manual_seed(1))


def their_nats(trainer: Any, inputs: dict[str, Any]) -> torch.Tensor:
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
    mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
    found = trainer._get_per_token_logps_and_entropies(trainer.model, ids, mask, inputs["completion_ids"].shape[1])
    nats: torch.Tensor = found[0].detach()
    return nats


def rows_of(inputs: dict[str, Any], tokenizer: PreTrainedTokenizerFast, *, count: str) -> list[Row]:
    rows = []
    for index, mask in enumerate(inputs["completion_mask"].bool()):
        prompt = inputs["prompt_ids"][index][inputs["prompt_mask"][index].bool()].tolist()
        answer = inputs["completion_ids"][index][mask].tolist()
        weights = np.array([0.0] * len(prompt) + [1.0] * len(answer), dtype=np.float32)
        sequence = TokenSequence(np.array(prompt + answer, dtype=np.int64), weights, len(prompt))
        text = tokenizer.decode(answer, skip_special_tokens=True)
        facts = {GROUP: np.array([hash(tuple(prompt)) % 997.0]), REWARD: np.array(letters([text]))}
        for ours, theirs in ((OLD_NATS, "old_per_token_logps"), (REFERENCE_NATS, "ref_per_token_logps")):
            if inputs.get(theirs) is not None:
                facts[ours] = inputs[theirs][index][mask].double().numpy()
        counts = {"grpo": 1.0, "dapo": float(len(answer)), "bnpo": float(len(answer)), "dr_grpo": float(LONGEST)}
        rows.append(Row((sequence,), f"row {index}", counts[count], facts))
    return rows


def compare(trainer: Any, inputs: dict[str, Any], objective: GroupObjective, rows: list[Row]) -> torch.Tensor:
    """Loss and gradients of both; returns the advantages."""
    model = trainer.model
    theirs = trainer._compute_loss(model, inputs)
    model.zero_grad()
    theirs.backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    settled = [row for part in objective.settle(rows).answers for row in part]
    learnt = objective._learnable(settled)
    result = objective.loss(make_scorer(model), batch_of(learnt))
    ours = result.sum / sum(row.count for row in learnt)
    model.zero_grad()
    ours.backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    assert expected
    for name, parameter in model.named_parameters():
        if name in expected:
            torch.testing.assert_close(parameter.grad, expected[name], atol=1e-5, rtol=1e-4)
    by_row = {row.origin: float(row.facts["advantage"][0]) for row in settled}
    return torch.tensor([by_row[row.origin] for row in rows])  # TRL shuffles answers, settling groups them


@pytest.mark.parametrize(("beta", "unbiased"), [(0.0, True), (0.1, True), (0.1, False)])
@pytest.mark.parametrize("loss", ["grpo", "bnpo", "dapo", "dr_grpo"])
def test_grpo_equals_trl(
    grpo_trainer: Any, tiny_tokenizer: PreTrainedTokenizerFast, loss: str, beta: float, unbiased: bool
) -> None:
    grpo_trainer.loss_type, grpo_trainer.beta = loss, beta
    grpo_trainer.args.use_bias_correction_kl = unbiased
    inputs = {**grpo_trainer.rollout, "old_per_token_logps": grpo_trainer.moved_nats}
    objective = GrpoObjective(
        ROLLOUT,
        PLAN,
        average="dapo" if loss == "bnpo" else loss,  # type: ignore[arg-type]
        clip_low=0.2,
        clip_high=0.28,
        beta=beta,
        unbiased_kl=unbiased,
    )
    advantages = compare(grpo_trainer, inputs, objective, rows_of(inputs, tiny_tokenizer, count=loss))
    torch.testing.assert_close(advantages, inputs["advantages"], atol=1e-5, rtol=1e-5)
    assert advantages.abs().max() > 0.1


@pytest.mark.parametrize("scale", ["batch", "none"])
def test_reward_scales_equal_trl(
    tiny_llama_dir: Path, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path, scale: str
) -> None:
    trainer = trainer_of("GRPO", tiny_llama_dir, tiny_tokenizer, tmp_path, scale_rewards=scale, loss_type="dapo")
    inputs = sampled(trainer)
    objective = GrpoObjective(ROLLOUT, PLAN, average="dapo", scale=scale)  # type: ignore[arg-type]
    rows = rows_of(inputs, tiny_tokenizer, count="dapo")
    assert OLD_NATS not in rows[0].facts  # the first update: ratios are 1
    advantages = compare(trainer, inputs, objective, rows)
    torch.testing.assert_close(advantages, inputs["advantages"], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("beta", [0.0, 0.1])
def test_rloo_equals_trl(
    tiny_llama_dir: Path, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path, beta: float
) -> None:
    trainer = trainer_of("RLOO", tiny_llama_dir, tiny_tokenizer, tmp_path, beta=beta, epsilon=0.2)
    inputs = sampled(trainer)
    mask = inputs["completion_mask"]
    nats = their_nats(trainer, inputs)
    with trainer.model.disable_adapter():
        inputs["ref_per_token_logps"] = their_nats(trainer, inputs)
    inputs["old_per_token_logps"] = nats  # of the rollout: the tax on rewards is theirs already
    rows = rows_of(inputs, tiny_tokenizer, count="grpo")
    objective = RlooObjective(ROLLOUT, PLAN, clip_epsilon=0.2, kl_coefficient=beta)
    old = (nats * mask).sum(1)
    torch.testing.assert_close(old, inputs["old_logps"], atol=1e-4, rtol=1e-5)
    advantages = compare(trainer, inputs, objective, rows)
    torch.testing.assert_close(advantages, inputs["advantages"], atol=1e-4, rtol=1e-4)
