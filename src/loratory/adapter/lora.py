"""Our LoRA options as a PEFT configuration for one model."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from peft import LoraConfig, TaskType
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from loratory.errors import AdapterError


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
    modules_to_save: Sequence[str],
    rank_pattern: Mapping[str, int],
    alpha_pattern: Mapping[str, float],
    init: bool | str = True,
    lora_bias: bool = False,
    inference_mode: bool = False,
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
        modules_to_save: Names of modules trained in full.
        rank_pattern: Rank by literal name.
        alpha_pattern: Alpha by literal name.
        init: PEFT's init_lora_weights.
        lora_bias: Whether B has a bias.
        inference_mode: Whether the adapter's weights are frozen.

    Raises:
        AdapterError: A module to save that the model does not have.
    """
    targeted = [module for name, module in model.named_modules() if _ends_with_any(name, names)]
    for name in modules_to_save:
        if not any(_ends_with_any(full, [name]) for full, _ in model.named_modules()):
            leaves = dict.fromkeys(full.rsplit(".", 1)[-1] for full, _ in model.named_modules() if full)
            raise AdapterError(
                f"adapter.modules_to_save: {name!r} is no module of {type(model).__name__}; have {', '.join(leaves)}"
            )
    return LoraConfig(
        r=rank,
        lora_alpha=int(alpha) if alpha == int(alpha) else alpha,
        lora_dropout=dropout,
        bias=bias,
        target_modules=list(names),
        use_rslora=use_rslora,
        use_dora=use_dora,
        init_lora_weights=init,
        lora_bias=lora_bias,
        modules_to_save=list(modules_to_save) or None,
        rank_pattern=dict(rank_pattern),
        alpha_pattern=dict(alpha_pattern),
        fan_in_fan_out=bool(targeted) and all(isinstance(module, Conv1D) for module in targeted),
        ensure_weight_tying=_touches_shared_embedding(model, [*names, *modules_to_save]),
        inference_mode=inference_mode,
        task_type=TaskType.CAUSAL_LM,
    )


@contextmanager
def quiet_peft() -> Iterator[None]:
    """Silence PEFT's notes on what `lora_config` and the strict loader settle themselves."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to")
        warnings.filterwarnings("ignore", message="Found missing adapter keys")
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing. is deprecated", category=FutureWarning)
        yield


def _touches_shared_embedding(model: PreTrainedModel, names: Sequence[str]) -> bool:
    """Whether the names select an input embedding or head that share one weight, which must then stay shared."""
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if head is None or getattr(head, "weight", None) is not getattr(embedding, "weight", None):
        return False
    shared: tuple[nn.Module, ...] = (head, embedding)
    return any(module in shared and _ends_with_any(full, names) for full, module in model.named_modules())


def _ends_with_any(full: str, names: Sequence[str]) -> bool:
    return any(full == name or full.endswith(f".{name}") for name in names)
