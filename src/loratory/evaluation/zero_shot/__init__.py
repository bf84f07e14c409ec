"""Zero-shot tasks through lm-eval, with the tree engine as its language model: `zero_shot_scores`."""

from loratory.evaluation.zero_shot.backend import tree_language_model
from loratory.evaluation.zero_shot.result import TaskResult, TaskScore, TaskSource
from loratory.evaluation.zero_shot.scores import TASKS, zero_shot_scores

__all__ = ["TASKS", "TaskResult", "TaskScore", "TaskSource", "tree_language_model", "zero_shot_scores"]
