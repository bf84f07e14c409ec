"""Our LoRA options as a PEFT configuration for one model."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from peft import LoraConfig, TaskType
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from loratory.adapter.pattern import ends_with_any
from loratory.adapter.peft_options import build_config
from loratory.errors import AdapterError
from loratory.model.task import task_of

SHARED_HEAD = "lm_head"
PEFT_HEADS = ("classifier", "score")
"""Names that PEFT adds to the modules to save of every classification adapter."""
TASK_TYPES = {
    "causal_lm": TaskType.CAUSAL_LM,
    "seq_2_seq_lm": TaskType.SEQ_2_SEQ_LM,
    "seq_cls": TaskType.SEQ_CLS,
}


def lora_config(
    model: PreTrainedModel,
    *,
    names: Sequence[str],
    rank: int,
    alpha: float,
    dropout: float,
    bias: str,
    use_rslora: bool,
    use_dora: bool,
    to_save: Sequence[str],
    rank_pattern: Mapping[str, int],
    alpha_pattern: Mapping[str, float],
    init: bool | str = True,
    lora_bias: bool = False,
    inference_mode: bool = False,
    has_task: bool = True,
    more: Mapping[str, Any] | None = None,
) -> LoraConfig:
    """Build the PEFT configuration.

    Args:
        model: The base, to see which layers are transposed (Conv1D) and which weights are shared.
        names: Literal module names, as in `Targets.names`.
        rank: R of every update that `rank_pattern` does not name.
        alpha: Scale numerator: the update counts alpha / rank, or alpha / sqrt(rank) with `use_rslora`.
        dropout: On the adapter's input.
        bias: none, all or lora_only.
        use_rslora: Rank-stabilised scale (Kalajdzievski, 2023).
        use_dora: Weight-decomposed update (Liu et al., 2024).
        to_save: Names of modules trained in full.
        rank_pattern: Rank by literal name.
        alpha_pattern: Alpha by literal name.
        init: PEFT's init_lora_weights.
        lora_bias: Whether B has a bias.
        inference_mode: Whether the adapter's weights are frozen.
        has_task: Name the model's task, by which PEFT trains and saves a classification head too.
        more: LoRA's further options under PEFT's names.

    Raises:
        AdapterError: A module to save that the model does not have, a target that shares its weight, or values that
            contradict each other.
    """
    targeted = modules_named(model, names)
    shared = shared_embedding(model)
    if any(module in shared.values() for module in targeted):
        raise AdapterError(
            f"adapter.targets: {' and '.join(shared)} share one weight in {type(model).__name__}, and two updates of "
            "it would contradict each other; to train it, put its name into adapter.modules_to_save"
        )
    whole = modules_to_save(model, to_save)
    values = {
        "r": rank,
        "lora_alpha": int(alpha) if alpha == int(alpha) else alpha,
        "lora_dropout": dropout,
        "bias": bias,
        "target_modules": list(names),
        "use_rslora": use_rslora,
        "use_dora": use_dora,
        "init_lora_weights": init,
        "lora_bias": lora_bias,
        "modules_to_save": whole or None,
        "rank_pattern": dict(rank_pattern),
        "alpha_pattern": dict(alpha_pattern),
        "fan_in_fan_out": are_transposed(targeted),
        "ensure_weight_tying": bool(shared) and SHARED_HEAD in whole,
        "inference_mode": inference_mode,
        "task_type": TASK_TYPES[task_of(model)] if has_task else None,
    }
    config = build_config("lora", {**values, **(more or {})})
    assert isinstance(config, LoraConfig)
    return config


def modules_named(model: nn.Module, names: Sequence[str]) -> list[nn.Module]:
    """The modules that PEFT would take for these names."""
    return [module for full, module in model.named_modules() if ends_with_any(full, names)]


def are_transposed(modules: Sequence[nn.Module]) -> bool:
    """Whether they keep their weights as [I, O] (Conv1D), which PEFT calls fan_in_fan_out."""
    return bool(modules) and all(isinstance(module, Conv1D) for module in modules)


@contextmanager
def quiet_peft() -> Iterator[None]:
    """Silence PEFT's notes on what `lora_config` and the strict loader settle themselves."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to")
        warnings.filterwarnings("ignore", message="Using Rank-Stabilized LoRA with rank_pattern")
        warnings.filterwarnings("ignore", message="Found missing adapter keys")
        warnings.filterwarnings("ignore", message="Failed to load the CUDA extension")
        warnings.filterwarnings("ignore", message="Unsupported layer type")
        warnings.filterwarnings("ignore", message="Full backward hook is firing when gradients are computed")
        warnings.filterwarnings("ignore", message="lora with eva initialization used with low_cpu_mem_usage")
        warnings.filterwarnings("ignore", message="Setting boft_n_butterfly_factor")
        warnings.filterwarnings("ignore", message="Sparse invariant checks")
        warnings.filterwarnings("error", message=".* were set but no parameter was matched")
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing. is deprecated", category=FutureWarning)
        yield


def shared_embedding(model: PreTrainedModel) -> dict[str, nn.Module]:
    """Full name -> module of the input embedding and the output head when they share one weight; else nothing."""
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if head is None or getattr(head, "weight", None) is not getattr(embedding, "weight", None):
        return {}
    return {name: module for name, module in model.named_modules() if module is head or module is embedding}


def modules_to_save(model: PreTrainedModel, names: Sequence[str]) -> list[str]:
    """Check the names, and name a shared embedding as PEFT knows it: by its head, `lm_head`.

    Raises:
        AdapterError: A name that is no module, or one that cannot be saved apart from the base.
    """
    shared = shared_embedding(model)
    kept = []
    for name in names:
        found = [full for full, _ in model.named_modules() if ends_with_any(full, [name])]
        if not found:
            leaves = dict.fromkeys(full.rsplit(".", 1)[-1] for full, _ in model.named_modules() if full)
            raise AdapterError(
                f"adapter.modules_to_save: {name!r} is no module of {type(model).__name__}; have {', '.join(leaves)}"
            )
        kept.append(SHARED_HEAD if any(full in shared for full in found) else name)
    if SHARED_HEAD in kept and shared and SHARED_HEAD not in shared:
        raise AdapterError(
            f"adapter.modules_to_save: {' and '.join(shared)} share one weight and cannot be saved apart from the base"
        )
    return list(dict.fromkeys(kept))
