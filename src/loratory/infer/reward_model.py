"""A trained reward model as a judge: token sequences in, one score each out."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from loratory.adapter.files import read_adapter
from loratory.adapter.load import load_adapter
from loratory.config import ModelConfig, QuantizationConfig
from loratory.errors import AdapterError, DataError, ModelError
from loratory.model import LoadedModel, load_model
from loratory.model.task import ClassHead
from loratory.tree.build import build_tree
from loratory.tree.classes import scored_sequence
from loratory.tree.scorer import Scorer
from loratory.tree.scorers import make_scorer

FINAL_MODEL = "final_model"
MAX_TOKENS_PER_PASS = 4096


@dataclass(frozen=True, slots=True, eq=False)
class RewardModel:
    """A model with one score for a text.

    Attributes:
        model: In eval mode, not trained.
        tokenizer: Its tokenizer: the one that token sequences must come from.
        scorer: Of the model; what sequences share is computed once.
        source: Where it came from.
    """

    model: PreTrainedModel | PeftModel
    tokenizer: PreTrainedTokenizerBase
    scorer: Scorer
    source: Path

    def scores(
        self, sequences: Sequence[Sequence[int]], *, max_tokens_per_pass: int = MAX_TOKENS_PER_PASS
    ) -> list[float]:
        """The score of each sequence, read at its last token; nothing is checked for being finite.

        Args:
            sequences: Token ids of prompt and answer, stop token included if the answer has one; those that share a
                prompt stand beside each other at best.
            max_tokens_per_pass: Tokens of one forward pass; a longer sequence goes alone.

        Raises:
            DataError: A sequence has no tokens.
        """
        empty = [index for index, ids in enumerate(sequences) if len(ids) == 0]
        if empty:
            raise DataError(f"sequence {empty[0] + 1} of {len(sequences)} has no tokens, so it has no score")
        scores: list[float] = []
        for part in _passes(sequences, max_tokens_per_pass):
            tree = build_tree([scored_sequence(ids) for ids in part])
            with torch.no_grad():
                scores += self.scorer.class_scores(tree)[:, 0].tolist()
        return scores


def load_reward_model(
    path: Path,
    *,
    base: ModelConfig | None = None,
    quantization: QuantizationConfig | None = None,
    device: torch.device | str | None = None,
    trust_remote_code: bool = False,
) -> RewardModel:
    """Load a reward model.

    Args:
        path: A run directory, or a folder with a PEFT adapter of task SEQ_CLS or a model with one score.
        base: The adapter's base; default the one that the adapter names.
        quantization: 4 or 8 bits for the base.
        device: Where it computes; default the first GPU, else the CPU.
        trust_remote_code: Run code from the base's repository.

    Raises:
        AdapterError: The adapter is not a reward model's.
        ModelError: The model cannot be loaded or has no head with one score.
        IntegrityError: The adapter is damaged or of another base.
    """
    folder = path / FINAL_MODEL if (path / FINAL_MODEL).is_dir() else path
    if (folder / "adapter_config.json").is_file():
        section = _base_of_adapter(folder) if base is None else base
        loaded = _load(section, 0, quantization, device, trust_remote_code)
        model: PreTrainedModel | PeftModel = load_adapter(
            loaded.model, folder, trainable=False, base_identity=loaded.identity
        )
    else:
        _check_one_score(folder)
        section = ModelConfig(model_name_or_path=str(folder)) if base is None else base
        loaded = _load(section, None, quantization, device, trust_remote_code)
        model = loaded.model
    model.requires_grad_(False)
    return RewardModel(model.eval(), loaded.tokenizer, make_scorer(model), path)


def _load(
    section: ModelConfig,
    seed: int | None,
    quantization: QuantizationConfig | None,
    device: torch.device | str | None,
    trust_remote_code: bool,
) -> LoadedModel:
    head = ClassHead((), seed)
    return load_model(section, quantization=quantization, device=device, trust_remote_code=trust_remote_code, head=head)


def _base_of_adapter(folder: Path) -> ModelConfig:
    """The base that an adapter names, with the tokenizer beside the adapter if there is one."""
    files = read_adapter(folder)
    found = files.config
    if found.task_type != "SEQ_CLS" or not found.modules_to_save:
        raise AdapterError(
            f"{folder}: an adapter for task {found.task_type} without a trained score is no reward model; train one "
            "with objective.name=reward"
        )
    if found.base_name is None:
        raise AdapterError(f"{folder}: the adapter does not name its base; give it as the run's model section has it")
    tokenizer = str(folder) if (folder / "tokenizer_config.json").is_file() else None
    return ModelConfig(model_name_or_path=found.base_name, tokenizer_name_or_path=tokenizer)


def _check_one_score(folder: Path) -> None:
    file = folder / "config.json"
    if not file.is_file():
        return  # a hub name, or nothing: loading says which
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{file}: not valid JSON ({error})") from error
    labels = found.get("id2label")
    count = len(labels) if isinstance(labels, dict) else 2
    if count != 1:
        raise ModelError(f"{folder}: has {count} labels; a reward model has one score (num_labels 1)")


def _passes(sequences: Sequence[Sequence[int]], max_tokens: int) -> list[list[Sequence[int]]]:
    """Neighbours together, up to `max_tokens` before sharing."""
    passes: list[list[Sequence[int]]] = []
    room = 0
    for ids in sequences:
        if not passes or len(ids) > room:
            passes.append([])
            room = max_tokens
        passes[-1].append(ids)
        room -= len(ids)
    return passes
