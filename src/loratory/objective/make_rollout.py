"""From the sections rollout, ppo, grpo and rloo to an objective that learns from rewards."""

from pathlib import Path

from loratory.config import GrpoConfig, ObjectiveConfig, PpoConfig, RlooConfig, RolloutConfig
from loratory.errors import ConfigError
from loratory.infer.reward_model import load_reward_model
from loratory.objective.group_objective import GrpoObjective, RlooObjective
from loratory.objective.judge import (
    FunctionJudge,
    Judge,
    RewardFunction,
    VerifiableJudge,
    exact_match,
    numeric,
    pattern_rule,
)
from loratory.objective.kl import KlController
from loratory.objective.model_judge import ModelJudge
from loratory.objective.ppo import PpoObjective, PpoSettings
from loratory.objective.rollout import Rollout, RolloutSettings
from loratory.objective.rollout_objective import RolloutObjective, UpdatePlan, num_mini_batches

_DEFAULT_SAMPLES = {"ppo": 1, "grpo": 8, "rloo": 4}


def make_rollout_objective(
    section: ObjectiveConfig, *, batch_size: int, reward_function: RewardFunction | None
) -> RolloutObjective:
    """Build ppo, grpo or rloo.

    Args:
        section: With one of these names.
        batch_size: Answers per optimizer step.
        reward_function: The user's, from the command line.

    Raises:
        ConfigError: There is no reward, or two; groups of one answer where answers are compared.
    """
    settings = section.rollout
    samples = settings.samples_per_prompt or _DEFAULT_SAMPLES[section.name]
    if samples < 2 and section.name != "ppo":
        raise ConfigError(
            f"objective.rollout.samples_per_prompt: {section.name} compares the answers to one prompt and needs at "
            f"least 2; got {samples}"
        )
    rollout = Rollout(_rollout_settings(settings, samples), make_judge(settings, reward_function))
    match section.name:
        case "ppo":
            return _ppo(section.ppo, rollout, _plan(settings, samples, batch_size, section.ppo.epochs))
        case "grpo":
            return _grpo(section.grpo, rollout, _plan(settings, samples, batch_size, section.grpo.epochs))
        case _:
            return _rloo(section.rloo, rollout, _plan(settings, samples, batch_size, section.rloo.epochs))


def make_judge(section: RolloutConfig, reward_function: RewardFunction | None) -> Judge:
    """The one judge that the section or the command line names.

    Raises:
        ConfigError: None is named, or two are.
    """
    if reward_function is not None:
        if section.reward is not None:
            raise ConfigError(
                f"objective.rollout.reward: is '{section.reward}', and --reward-function is given too; leave one out"
            )
        return FunctionJudge(reward_function)
    match section.reward:
        case "exact_match":
            return VerifiableJudge(exact_match, needs_label=True)
        case "numeric":
            return VerifiableJudge(numeric, needs_label=True)
        case "regex":
            assert section.reward_pattern is not None
            needs_label = "(?P<answer>" in section.reward_pattern
            return VerifiableJudge(pattern_rule(section.reward_pattern), needs_label=needs_label)
        case "model":
            assert section.reward_model is not None
            return ModelJudge(load_reward_model(Path(section.reward_model)))
        case None:
            raise ConfigError(
                "objective.rollout.reward: there is no reward to learn from. Choose exact_match, numeric, regex or "
                "model, or give --reward-function MODULE:FUNCTION on the command line"
            )


def _rollout_settings(section: RolloutConfig, samples: int) -> RolloutSettings:
    return RolloutSettings(
        samples_per_prompt=samples,
        max_new_tokens=section.max_new_tokens,
        temperature=section.temperature,
        top_p=section.top_p,
        top_k=section.top_k,
        batch_size=section.batch_size,
        missing_eos_penalty=section.missing_eos_penalty,
        length_penalty=section.length_penalty,
    )


def _plan(section: RolloutConfig, samples: int, batch_size: int, epochs: int) -> UpdatePlan:
    prompts = section.prompts or max(1, batch_size // samples)
    return UpdatePlan(
        prompts=prompts,
        epochs=epochs,
        mini_batches=num_mini_batches(answers=prompts * samples, batch_size=batch_size),
        max_failed_rewards=section.max_failed_rewards,
    )


def _ppo(section: PpoConfig, rollout: Rollout, plan: UpdatePlan) -> PpoObjective:
    settings = PpoSettings(
        clip_epsilon=section.clip_epsilon,
        value_clip=section.value_clip,
        value_coefficient=section.value_coefficient,
        value_trains_trunk=section.value_trains_trunk,
        entropy_coefficient=section.entropy_coefficient,
        gamma=section.gamma,
        gae_lambda=section.gae_lambda,
        kl_estimator=section.kl_estimator,
        whiten_rewards=section.whiten_rewards,
        whiten_advantages=section.whiten_advantages,
    )
    controller = KlController(section.kl_coefficient, target=section.kl_target, horizon=section.kl_horizon)
    return PpoObjective(rollout, plan, settings=settings, controller=controller)


def _grpo(section: GrpoConfig, rollout: Rollout, plan: UpdatePlan) -> GrpoObjective:
    return GrpoObjective(
        rollout,
        plan,
        average=section.loss,
        scale=section.scale_rewards,
        clip_low=section.clip_epsilon,
        clip_high=section.clip_epsilon_high,
        beta=section.beta,
        unbiased_kl=section.unbiased_kl,
    )


def _rloo(section: RlooConfig, rollout: Rollout, plan: UpdatePlan) -> RlooObjective:
    return RlooObjective(
        rollout,
        plan,
        clip_epsilon=section.clip_epsilon,
        kl_coefficient=section.kl_coefficient,
        normalise=section.normalise_advantages,
    )
