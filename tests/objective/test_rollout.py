"""Rollouts of a tiny policy: what is drawn, how answers end, what they are worth, and what PPO makes of them."""

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from loratory.data.records import Origin, Record, Turn
from loratory.data.templates import bind_template
from loratory.engine.reference import StartingPolicy
from loratory.errors import DataError, ModelError
from loratory.infer.reward_model import RewardModel
from loratory.objective.judge import AnsweredPrompt, FunctionJudge, Unjudged, Verdict, VerifiableJudge, exact_match
from loratory.objective.kl import KlController
from loratory.objective.model_judge import ModelJudge
from loratory.objective.ppo import PpoObjective, PpoSettings
from loratory.objective.rollout import Rollout, RolloutSettings
from loratory.objective.rollout_objective import UpdatePlan
from loratory.objective.row import Row, batch_of
from loratory.objective.sampled import Policy
from loratory.tree.scorers import make_scorer

# PEFT reads a name that transformers has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

TEXTS = ["cancel my roaming", "What is the answer to this question?", "How much is the 9.9 plan?", "yes"]
PLAN = UpdatePlan(prompts=4, epochs=2, mini_batches=2)


def length_judge() -> FunctionJudge:
    return FunctionJudge(lambda prompt, answer, label: float(len(answer)))


def objective(judge: Any = None, *, settings: PpoSettings | None = None, **rollout: Any) -> PpoObjective:
    made = Rollout(RolloutSettings(3, 5, **rollout), judge or length_judge())
    return PpoObjective(made, PLAN, settings=settings or PpoSettings(), controller=KlController(0.3))


@pytest.fixture
def policy(tiny_llama: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast) -> Policy:
    """A policy that has moved away from its start."""
    torch.manual_seed(0)
    model = get_peft_model(tiny_llama, LoraConfig(r=4, target_modules=["q_proj", "up_proj"], task_type="CAUSAL_LM"))
    scorer = make_scorer(model)
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    reference = StartingPolicy(model, scorer, parameters=parameters, is_no_op=True)
    with torch.no_grad():
        for name, parameter in parameters.items():
            if "lora_B" in name:
                parameter.normal_(std=0.5)
    model.eval()
    return Policy(
        model=model,
        tokenizer=tiny_tokenizer,
        template=bind_template("chat", tiny_tokenizer),
        scorer=scorer,
        reference=reference,
        seed=7,
        passes=lambda rows: [rows[:5], rows[5:]] if len(rows) > 5 else [rows],
        precision=contextlib.nullcontext,
        note=lambda text: None,
    )


def prompt_rows(made: PpoObjective, policy: Policy, *, label: str = "yes") -> list[Row]:
    rows = []
    for line, text in enumerate(TEXTS):
        record = Record((Turn("user", text), Turn("assistant", label)), Origin("rows.json", line + 1))
        sequences = made.sequences(record, policy.template)
        rows.append(Row(sequences, str(record.origin), made.count(sequences), {}, made.texts(record)))
    return rows


def test_prompts_and_texts(policy: Policy) -> None:
    row = prompt_rows(objective(), policy)[0]
    assert row.sequences[0].num_supervised == 0
    assert row.texts == {"prompt": "cancel my roaming", "label": "yes"}


def test_draws_depend_on_the_prompts_number_alone(policy: Policy) -> None:
    made = objective()
    rows = prompt_rows(made, policy)

    def texts(rows: Sequence[Row], numbers: Sequence[int], **settings: Any) -> list[list[list[int]]]:
        rollout = objective(**settings)._rollout
        groups = rollout.sample(policy, rows, numbers=numbers)
        return [[answer.sequence.token_ids.tolist() for answer in group] for group in groups]

    together = texts(rows, [10, 11, 12, 13])
    assert texts(rows, [10, 11, 12, 13], batch_size=2) == together
    assert texts(rows[2:], [12, 13]) == together[2:]
    assert texts(rows[:1], [14])[0] != together[0]
    assert len({tuple(ids) for ids in together[0]}) > 1


def test_answers_end_with_the_token_that_stopped_them(policy: Policy) -> None:
    made = objective(missing_eos_penalty=2.0, length_penalty=0.5)
    rows = prompt_rows(made, policy)
    stop = policy.template.stop_token_ids[0]
    head = policy.model.get_output_embeddings().weight
    with torch.no_grad():
        head[stop] += 0.3 * head.norm(dim=1).mean() / head.shape[1] ** 0.5
    answers = [a for group in made._rollout.sample(policy, rows * 4, numbers=range(16)) for a in group]
    assert {answer.is_stopped for answer in answers} == {True, False}
    for answer in answers:
        ids = answer.sequence.token_ids.tolist()
        prompt = answer.prompt.sequences[0].token_ids.tolist()
        assert ids[: len(prompt)] == prompt
        assert answer.num_tokens == len(ids) - len(prompt) == answer.sequence.num_supervised
        assert answer.sequence.weights[: len(prompt)].sum() == 0
        assert (ids[-1] in policy.template.stop_token_ids) == answer.is_stopped
        assert answer.is_stopped or answer.num_tokens == 5
        assert answer.verdict == len(answer.text)
        expected = len(answer.text) - 0.5 * answer.num_tokens - (0.0 if answer.is_stopped else 2.0)
        assert answer.reward == pytest.approx(expected)


def test_experience_by_hand(policy: Policy) -> None:
    made = objective()
    made.attach(policy.model, seed=1)
    rows = prompt_rows(made, policy)
    seen = made.experience(policy, rows, numbers=[0, 1, 2, 3])
    assert [len(group) for group in seen.answers] == [3, 3, 3, 3]
    row = seen.answers[1][2]
    ids = torch.from_numpy(row.sequences[0].token_ids)[None]
    length = row.sequences[0].prompt_length
    with torch.no_grad():
        nats = policy.model(ids).logits[0, length - 1 : -1].log_softmax(-1)
        with policy.model.disable_adapter():  # type: ignore[operator]
            start = policy.model(ids).logits[0, length - 1 : -1].log_softmax(-1)
        hidden = policy.model.base_model(ids, output_hidden_states=True).hidden_states[-1][0, length - 1 : -1]
        values = made._head(hidden)  # type: ignore[misc]
    answer = ids[0, length:, None]
    own, reference = nats.gather(1, answer)[:, 0].numpy(), start.gather(1, answer)[:, 0].numpy()
    np.testing.assert_allclose(row.facts["old_nats"], own, atol=1e-5)
    np.testing.assert_allclose(row.facts["old_values"], values.numpy(), atol=1e-5)
    rewards = -0.3 * (own - reference)
    rewards[-1] += row.facts["reward"][0]
    np.testing.assert_allclose(row.facts["token_rewards"], rewards, atol=1e-5)
    total, count = seen.metrics["kl_per_answer"]
    everything = [each for group in seen.answers for each in group]
    assert count == 12
    taxes = sum(float(each.facts["reward"][0] - each.facts["token_rewards"].sum()) for each in everything)
    assert total == pytest.approx(taxes / 0.3, rel=1e-6)


def test_mini_batches_use_every_answer_once_an_epoch(policy: Policy) -> None:
    made = objective()
    made.attach(policy.model, seed=1)
    seen = made.experience(policy, prompt_rows(made, policy), numbers=[0, 1, 2, 3])
    rows = [row for part in made.settle([r for group in seen.answers for r in group]).answers for row in part]
    assert made.updates_per_rollout == 4
    parts = [made.update_rows(rows, update, seed=3) for update in range(4)]
    for first in (0, 2):
        together = [id(row) for part in parts[first : first + 2] for row in part]
        assert sorted(together) == sorted(id(row) for row in rows)
    assert [id(row) for row in parts[0]] == [id(row) for row in made.update_rows(rows, 0, seed=3)]
    assert abs(np.concatenate([row.facts["advantages"] for row in rows]).mean()) < 1e-9


@pytest.mark.parametrize("settings", [PpoSettings(entropy_coefficient=0.1), PpoSettings(value_trains_trunk=False)])
def test_the_tree_gives_the_padded_loss_and_gradients(policy: Policy, settings: PpoSettings) -> None:
    made = objective(settings=settings)
    head = made.attach(policy.model, seed=1)
    seen = made.experience(policy, prompt_rows(made, policy), numbers=[0, 1, 2, 3])
    rows = [row for part in made.settle([r for group in seen.answers for r in group]).answers for row in part]
    generator = np.random.default_rng(0)
    for index, row in enumerate(rows):
        moved = row.facts["old_nats"] + generator.normal(0, 0.3, len(row.facts["old_nats"]))
        rows[index] = replace(row, facts={**row.facts, "old_nats": moved})
    found = []
    for path in ("padded", "tree", "fused"):
        policy.model.zero_grad()
        head.zero_grad()
        loss = made.loss(make_scorer(policy.model, path=path), batch_of(rows))
        loss.sum.backward()  # type: ignore[no-untyped-call]
        parameters = {**dict(policy.model.named_parameters()), **dict(head.named_parameters())}
        found.append((loss, {n: p.grad.clone() for n, p in parameters.items() if p.grad is not None}))
    assert 0 < found[0][0].metrics["clip_fraction"][0] < found[0][0].count
    for loss, gradients in found[1:]:
        torch.testing.assert_close(loss.sum, found[0][0].sum, atol=1e-5, rtol=1e-5)
        assert gradients.keys() == found[0][1].keys()
        assert {"summary.weight", "summary.bias"} <= gradients.keys()
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, found[0][1][name], atol=1e-5, rtol=1e-4)


def test_rows_without_the_answer_to_compare_with(policy: Policy) -> None:
    made = objective(VerifiableJudge(exact_match, needs_label=True))
    made.check_prompts(policy, prompt_rows(made, policy))
    with pytest.raises(DataError, match=r"4 of 4 rows have no answer of their own.*rows.json:1"):
        made.check_prompts(policy, prompt_rows(made, policy, label=""))


class FixedScores(RewardModel):
    """A reward model whose scores are given."""

    def scores(self, sequences: Sequence[Sequence[int]], *, max_tokens_per_pass: int = 4096) -> list[float]:
        return [float("nan") if len(ids) == 3 else float(sum(ids)) for ids in sequences]


def test_a_reward_model_sees_the_policys_tokens(policy: Policy, tmp_path: Path) -> None:
    judge = ModelJudge(FixedScores(policy.model, policy.tokenizer, policy.scorer, tmp_path))  # type: ignore[arg-type]
    judge.check(policy)
    answered = [AnsweredPrompt("", "", "", ids) for ids in ((1, 2), (1, 2, 3), tuple(range(600)))]
    verdicts: list[Verdict] = judge(answered)
    assert verdicts[0] == 3.0
    assert verdicts[1] == Unjudged("it gave nan, which is not finite")
    assert verdicts[2] == Unjudged("600 tokens pass its context of 512")


def test_a_reward_model_of_another_tokenizer_is_refused(policy: Policy, tmp_path: Path) -> None:
    other = PreTrainedTokenizerFast.from_pretrained(policy.tokenizer.name_or_path)
    other.add_tokens(["<new>"])
    judge = ModelJudge(FixedScores(policy.model, other, policy.scorer, tmp_path))  # type: ignore[arg-type]
    made = objective(judge)
    with pytest.raises(ModelError, match=r"another tokenizer than the policy \(401 tokens against 400, 1 entries"):
        made.check_prompts(policy, prompt_rows(made, policy))
