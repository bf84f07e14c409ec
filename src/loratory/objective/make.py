"""From the configuration section to an objective."""

from loratory.config import ObjectiveConfig
from loratory.objective.kto import KtoObjective
from loratory.objective.loss import Objective
from loratory.objective.preference import DpoObjective, OrpoObjective, SimpoObjective
from loratory.objective.sft import SftObjective


def make_objective(section: ObjectiveConfig) -> Objective:
    """Build the objective that `section.name` names (its allowed names are the section's own)."""
    preference = section.preference
    match section.name:
        case "sft":
            return SftObjective()
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
        case "simpo":
            return SimpoObjective(
                beta=preference.beta,
                gamma=preference.gamma,
                label_smoothing=preference.label_smoothing,
                sft_weight=preference.sft_weight,
            )
