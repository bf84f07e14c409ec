"""Where a step's rows come from: the data set as it stands, or answers of the policy to its prompts.

Law (resume): rows of a step are a function of data, seed and step; what a rollout drew is in the checkpoint until it
has been used up.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from safetensors.numpy import load_file, save_file

from loratory.data.sequence import TokenSequence
from loratory.engine.forward import merge_metrics
from loratory.engine.order import BatchPlan
from loratory.engine.ranks import Ranks
from loratory.objective.row import Row
from loratory.objective.sampled import Policy, SampledObjective

_TENSORS = "rollout.safetensors"
_TEXT = "rollout.json"

Metrics = Mapping[str, tuple[float, float]]


class RowSource(Protocol):
    """Rows of each optimizer step."""

    @property
    def steps_per_epoch(self) -> float:
        """Steps in which every row of the data set has its turn once."""
        ...

    def rows(self, step: int) -> Sequence[Row]:
        """Rows of 0-based step `step`, the same on every rank."""
        ...

    def take_metrics(self) -> Metrics:
        """name -> (sum, count) of what making rows showed since the last call."""
        ...

    def save(self, folder: Path) -> None:
        """Write what `rows` of the next step cannot make again."""
        ...

    def load(self, folder: Path) -> None:
        """Take it back."""
        ...


class DataSource:
    """The data set's own rows."""

    def __init__(self, rows: Sequence[Row], plan: BatchPlan) -> None:
        self._rows = rows
        self._plan = plan

    @property
    def steps_per_epoch(self) -> float:
        """Steps of one epoch."""
        return self._plan.steps_per_epoch

    def rows(self, step: int) -> Sequence[Row]:
        """Rows of 0-based step `step`."""
        return [self._rows[i] for i in self._plan.rows(step)]

    def take_metrics(self) -> Metrics:
        """Nothing to say."""
        return {}

    def save(self, folder: Path) -> None:
        """The plan is a pure function."""

    def load(self, folder: Path) -> None:
        """Nothing was written."""


class RolloutSource:
    """Answers of the policy, made when the first step that needs them comes.

    Args:
        prompts: Rows of the data set.
        plan: Which prompts each rollout has; its steps are rollouts.
        objective: Lets the policy answer.
        policy: The model in training.
        ranks: The processes; each answers its share, and all get all rows.
        seed: Seed of the run.
    """

    def __init__(
        self,
        prompts: Sequence[Row],
        plan: BatchPlan,
        *,
        objective: SampledObjective,
        policy: Policy,
        ranks: Ranks,
        seed: int,
    ) -> None:
        self._prompts = prompts
        self._plan = plan
        self._objective = objective
        self._policy = policy
        self._ranks = ranks
        self._seed = seed
        self._rollout = -1
        self._experience: tuple[Row, ...] = ()
        self._metrics: Metrics = {}

    @property
    def steps_per_epoch(self) -> float:
        """Optimizer steps in which every prompt is answered once."""
        return self._plan.steps_per_epoch * self._objective.updates_per_rollout

    def rows(self, step: int) -> Sequence[Row]:
        """Rows of 0-based step `step`; the first step of a rollout lets the policy answer."""
        rollout, update = divmod(step, self._objective.updates_per_rollout)
        if rollout != self._rollout:
            self._answer(rollout)
        return self._objective.update_rows(self._experience, update, seed=self._seed + rollout)

    def take_metrics(self) -> Metrics:
        """Numbers of the rollouts since the last call."""
        metrics, self._metrics = self._metrics, {}
        return metrics

    def save(self, folder: Path) -> None:
        """The rollout in use, and what the objective has adapted."""
        sequences = [sequence for row in self._experience for sequence in row.sequences]
        tensors: dict[str, np.ndarray[Any, Any]] = {}
        for index, sequence in enumerate(sequences):
            tensors[f"{index}.tokens"] = sequence.token_ids
            tensors[f"{index}.weights"] = sequence.weights
        for index, row in enumerate(self._experience):
            tensors |= {f"{index}.fact.{name}": np.asarray(value) for name, value in row.facts.items()}
        content = {
            "rollout": self._rollout,
            "metrics": {name: list(pair) for name, pair in self._metrics.items()},
            "objective": self._objective.state(),
            "prompt_lengths": [sequence.prompt_length for sequence in sequences],
            "rows": [
                {
                    "num_sequences": len(row.sequences),
                    "origin": row.origin,
                    "count": row.count,
                    "facts": sorted(row.facts),
                    "texts": dict(row.texts),
                }
                for row in self._experience
            ],
        }
        save_file(tensors, folder / _TENSORS)
        (folder / _TEXT).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")

    def load(self, folder: Path) -> None:
        """Take back what `save` wrote into a verified checkpoint."""
        content = json.loads((folder / _TEXT).read_text(encoding="utf-8"))
        tensors = load_file(folder / _TENSORS)
        lengths = content["prompt_lengths"]
        sequences = [
            TokenSequence(tensors[f"{i}.tokens"], tensors[f"{i}.weights"], length) for i, length in enumerate(lengths)
        ]
        rows, start = [], 0
        for index, each in enumerate(content["rows"]):
            stop = start + each["num_sequences"]
            facts = {name: tensors[f"{index}.fact.{name}"] for name in each["facts"]}
            rows.append(Row(tuple(sequences[start:stop]), each["origin"], each["count"], facts, each["texts"]))
            start = stop
        self._experience = tuple(rows)
        self._rollout = content["rollout"]
        self._metrics = {name: (pair[0], pair[1]) for name, pair in content["metrics"].items()}
        self._objective.load_state(content["objective"])

    def _answer(self, rollout: int) -> None:
        prompts = [self._prompts[i] for i in self._plan.rows(rollout)]
        first = rollout * self._objective.prompts_per_rollout
        mine = self._ranks.share(list(enumerate(prompts, start=first)))
        self._policy.model.eval()
        try:
            experience = self._objective.experience(
                self._policy, [row for _, row in mine], numbers=[number for number, _ in mine]
            )
        finally:
            self._policy.model.train()
        by_number = dict(zip([number for number, _ in mine], experience.answers, strict=True))
        parts = self._ranks.gather((by_number, dict(experience.metrics)))
        answers = {number: rows for part, _ in parts for number, rows in part.items()}
        metrics = merge_metrics([metrics for _, metrics in parts])
        self._objective.finish_rollout(metrics)
        settled = self._objective.settle([row for number in sorted(answers) for row in answers[number]])
        self._experience = tuple(row for part in settled.answers for row in part)
        self._rollout = rollout
        self._metrics = merge_metrics([self._metrics, metrics, settled.metrics])
