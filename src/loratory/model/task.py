"""What a model is for: continuing text, turning one text into another, or scoring a text by classes.

A classification head is new on top of a base that was not made for classes; which of its modules are new, and must
therefore be trained beside an adapter, is known here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    PreTrainedConfig,
    PreTrainedModel,
)

from loratory.config.model import Task
from loratory.errors import ModelError

MAPPINGS: Mapping[str, Any] = {
    "causal_lm": MODEL_FOR_CAUSAL_LM_MAPPING,
    "seq_2_seq_lm": MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
    "seq_cls": MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
}
_KINDS = {
    "causal_lm": "does not generate text left to right; a causal language model (such as llama, qwen2, gemma, mistral, "
    "phi, gpt2, gpt_neox, bloom) is needed",
    "seq_2_seq_lm": "does not turn text into text; an encoder-decoder model (such as t5, mt5, bart) is needed",
    "seq_cls": "has no form with a classification head",
}


@dataclass(frozen=True, slots=True)
class ClassHead:
    """The classification head that a model is loaded with.

    Attributes:
        labels: Names of the classes; empty for one score without a name (a reward).
        seed: Seed of the weights of a head that the base does not have; None: the base must have it.
    """

    labels: tuple[str, ...]
    seed: int | None

    @property
    def num_labels(self) -> int:
        """Width of the head."""
        return max(1, len(self.labels))


def choose_task(wanted: str, config_class: type[PreTrainedConfig], head: ClassHead | None, *, label: str) -> Task:
    """The task that a model is loaded for.

    Args:
        wanted: `model.task`.
        config_class: The model's configuration class.
        head: The head that the objective asks for.
        label: The model's name, for errors.

    Raises:
        ModelError: `model.task` contradicts the objective, or the model cannot do the task.
    """
    if head is not None and wanted not in ("auto", "seq_cls"):
        raise ModelError(
            f"model.task: {wanted}, but the objective scores texts; use seq_cls or leave the field at auto"
        )
    if head is None and wanted == "seq_cls":
        raise ModelError("model.task: seq_cls goes with objective.name reward or classification; use auto")
    task: Task
    if head is not None:
        task = "seq_cls"
    elif wanted == "auto":
        task = "seq_2_seq_lm" if is_text_to_text(config_class) else "causal_lm"
    else:
        task = wanted  # type: ignore[assignment]
    if config_class not in MAPPINGS[task]:
        raise ModelError(f"{label}: a {config_class.model_type!r} model {_KINDS[task]}")
    return task


def is_text_to_text(config_class: type[PreTrainedConfig]) -> bool:
    """Whether models of this kind are encoder-decoders by nature."""
    return config_class in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING


def reads_both_ways(config_class: type[PreTrainedConfig]) -> bool:
    """Whether a model of this kind sees a whole prompt at once, closed by the tokenizer's own end token."""
    return config_class in MODEL_FOR_MASKED_LM_MAPPING or is_text_to_text(config_class)


def task_of(model: PreTrainedModel) -> Task:
    """What a loaded model is for."""
    return next((task for task in ("seq_cls", "seq_2_seq_lm") if _is_made_for(model, task)), "causal_lm")


def _is_made_for(model: PreTrainedModel, task: str) -> bool:
    known = MAPPINGS[task].get(type(model.config), ())
    return type(model) in (known if isinstance(known, tuple) else (known,))


def head_modules(model: PreTrainedModel) -> tuple[str, ...]:
    """Names of the modules that stand on the body of a classification model; none for others."""
    if task_of(model) != "seq_cls":
        return ()
    return tuple(
        name
        for name, module in model.named_children()
        if name != model.base_model_prefix and any(True for _ in module.parameters())
    )


def set_classes(config: PreTrainedConfig, head: ClassHead, *, pad_token_id: int | None, label: str) -> None:
    """Write labels and the padding token, by which the model finds a row's last token, into the configuration.

    Raises:
        ModelError: The tokenizer has no padding token.
    """
    if pad_token_id is None:
        raise ModelError(f"{label}: scoring texts needs a tokenizer with a padding token, and this one has none")
    if head.labels:
        config.id2label = dict(enumerate(head.labels))
        config.label2id = {name: index for index, name in enumerate(head.labels)}
    else:
        config.num_labels = 1
    config.pad_token_id = pad_token_id
    config.get_text_config().pad_token_id = pad_token_id


def new_head_modules(model: PreTrainedModel, missing: list[str]) -> tuple[str, ...]:
    """The modules that `missing` weights belong to, if all are the head's or a pooler in front of it; else none."""
    heads = head_modules(model)
    found: dict[str, None] = {}
    for name in missing:
        parts = name.split(".")
        if parts[0] in heads:
            found[parts[0]] = None
        elif "pooler" in parts:
            found[".".join(parts[: parts.index("pooler") + 1])] = None
        else:
            return ()
    return tuple(found)


@torch.no_grad()
def seed_head(model: PreTrainedModel, names: tuple[str, ...], seed: int) -> None:
    """Draw the linear layers of new modules from the seed alone, with the model's own spread."""
    generator = torch.Generator().manual_seed(seed)
    spread = float(getattr(model.config.get_text_config(), "initializer_range", None) or 0.02)
    for name in names:
        for module in model.get_submodule(name).modules():
            if isinstance(module, nn.Linear):
                drawn = torch.empty(module.weight.shape).normal_(0.0, spread, generator=generator)
                module.weight.copy_(drawn)
                if module.bias is not None:
                    module.bias.zero_()
