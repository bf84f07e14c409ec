"""What is learnt: objectives turn records into sequences and a token tree into a loss."""

from loratory.objective.loss import LossSum, Objective
from loratory.objective.make import make_objective
from loratory.objective.sft import SftObjective

__all__ = ["LossSum", "Objective", "SftObjective", "make_objective"]
