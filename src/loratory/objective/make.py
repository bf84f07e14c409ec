"""From the configuration section to an objective."""

from loratory.config import ObjectiveConfig
from loratory.errors import ConfigError
from loratory.objective.classification import ClassificationObjective
from loratory.objective.judge import RewardFunction
from loratory.objective.kto import KtoObjective
from loratory.objective.loss import Objective
from loratory.objective.make_rollout import make_rollout_objective
from loratory.objective.preference import DpoObjective, OrpoObjective, SimpoObjective
from loratory.objective.reward import RewardObjective
from loratory.objective.sft import SftObjective


def make_objective(
    section: ObjectiveConfig, *, batch_size: int = 1, reward_function: RewardFunction | None = None
) -> Objective:
    """Build the objective that `section.name` names (its allowed names are the section's own).

    Args:
        section: The configuration's section.
        batch_size: Rows per optimizer step; only rollouts are made for it.
        reward_function: From the command line, for objectives that learn from rewards.

    Raises:
        ConfigError: A reward function is given to an objective that has no use for it; see `make_rollout_objective`.
    """
    if section.name in ("ppo", "grpo", "rloo"):
        return make_rollout_objective(section, batch_size=batch_size, reward_function=reward_function)
    if reward_function is not None:
        raise ConfigError(
            f"--reward-function: objective.name '{section.name}' learns from no reward; it is for ppo, grpo and rloo"
        )
    preference = section.preference
    match section.name:
        case "sft":
            return SftObjective()
        case "reward":
            return RewardObjective(center_coefficient=section.reward.center_coefficient)
        case "classification":
            return ClassificationObjective(section.classification.labels)
        case "dpo":
            return DpoObjective(
                loss=preference.loss,
                beta=preference.beta,
                label_smoothing=preference.label_smoothing,
                sft_weight=preference.sft_weight,
            )
        case "kto":
            return KtoObjective(
                beta=preference.beta,
                desirable_weight=preference.desirable_weight,
                undesirable_weight=preference.undesirable_weight,
            )
        case "orpo":
            return OrpoObjective(beta=preference.beta)
        case _:
            return SimpoObjective(
                beta=preference.beta,
                gamma=preference.gamma,
                label_smoothing=preference.label_smoothing,
                sft_weight=preference.sft_weight,
            )
