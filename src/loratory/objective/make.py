"""From the configuration section to an objective."""

from loratory.config import ObjectiveConfig
from loratory.objective.loss import Objective
from loratory.objective.sft import SftObjective


def make_objective(section: ObjectiveConfig) -> Objective:
    """Build the objective that `section.name` names (its allowed names are the section's own)."""
    return {"sft": SftObjective}[section.name]()
