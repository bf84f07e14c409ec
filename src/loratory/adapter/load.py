"""Load an adapter strictly: its files, its keys and shapes, its numbers and its base are checked before any is used.

PEFT alone applies an adapter of another base, ignores keys it does not know and leaves absent ones random. Here each
of these is an error.
"""

import logging
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from transformers import PreTrainedModel

from loratory.adapter.files import AdapterFiles, read_adapter
from loratory.adapter.lora import PEFT_HEADS, TASK_TYPES, lora_config, quiet_peft
from loratory.adapter.method import method_config, method_targets
from loratory.adapter.pattern import expand_pattern
from loratory.adapter.peft_file import LORA_OPTIONS, LoraFile
from loratory.adapter.save import adapter_tensors
from loratory.adapter.stack import PREFIX
from loratory.adapter.targets import resolve_targets, shortest_names
from loratory.errors import AdapterError, IntegrityError
from loratory.model.task import task_of

logger = logging.getLogger(__name__)

# Only of use before the first step, and able to fetch things; what was learnt replaces what they would give.
START_OPTIONS = frozenset(
    {"prompt_tuning_init", "prompt_tuning_init_text", "tokenizer_name_or_path", "tokenizer_kwargs"}
)
LORA_PARTS = (".lora_A.", ".lora_B.", ".lora_embedding_A", ".lora_embedding_B", ".lora_magnitude_vector")


def load_adapter(model: PreTrainedModel, path: Path, *, trainable: bool, base_identity: str | None) -> PeftModel:
    """Put the adapter in `path` on the base `model` (which is changed in place).

    Args:
        model: The base, not yet adapted.
        path: The adapter's folder.
        trainable: Whether the adapter's weights take gradients; the base's never do.
        base_identity: `LoadedModel.identity` of the base; None skips that check.

    Raises:
        AdapterError, UnsafeError, IntegrityError: As for `read_adapter`, and for keys or shapes that do not fit the
            base.
    """
    files = read_adapter(path, base_identity=base_identity)
    for warning in files.warnings:
        logger.warning(warning)
    return apply_adapter(model, files, trainable=trainable)


def apply_adapter(
    model: PreTrainedModel, files: AdapterFiles, *, trainable: bool, dropout: float | None = None
) -> PeftModel:
    """Put an adapter that was read on its base; see `load_adapter`.

    Args:
        model: The base, not yet adapted; changed in place.
        files: What `read_adapter` returned.
        trainable: Whether the adapter's weights take gradients.
        dropout: Dropout instead of the file's.
    """
    has_task = _has_task(model, files, trainable=trainable)
    config = _config_for(model, files, trainable=trainable, dropout=dropout, has_task=has_task)
    adapted = put_on(model, config, method=files.config.method)
    expected = adapter_tensors(adapted)
    tensors = _drop_copies_of_base(files, expected, model)
    _check_fit(files.path, expected, tensors)
    with quiet_peft():
        result = set_peft_model_state_dict(adapted, tensors)
    assert set(result.unexpected_keys) <= {"prompt_embeddings"}, result.unexpected_keys
    if not trainable:
        adapted.requires_grad_(False)
    return adapted.eval()


def put_on(model: PreTrainedModel, config: PeftConfig, *, method: str) -> PeftModel:
    """Let PEFT put an adapter on the model; what it cannot do is told in our terms.

    Raises:
        AdapterError: The method and the model's layers do not go together.
    """
    try:
        with quiet_peft():
            adapted = get_peft_model(model, config)
    except (
        RuntimeWarning,
        IndexError,
        ValueError,
        TypeError,
        NotImplementedError,
        AttributeError,
        KeyError,
        RuntimeError,
        ZeroDivisionError,
    ) as fault:
        if method == "lora" and not _has_further_options(config):
            raise
        raise AdapterError(
            f"adapter.method: {method} cannot be put on {type(model).__name__} with these options: {fault}. "
            "Change adapter.options or adapter.targets, or take method lora, which goes with every linear layer"
        ) from fault
    assert isinstance(adapted, PeftModel)
    return adapted


def _has_further_options(config: PeftConfig) -> bool:
    return any(getattr(config, name, None) for name in LORA_OPTIONS)


def _has_task(model: PreTrainedModel, files: AdapterFiles, *, trainable: bool) -> bool:
    """Whether the adapter was made for what the model does; a text adapter also goes on a model with a new head.

    Raises:
        AdapterError: It is for another task.
    """
    task = TASK_TYPES[task_of(model)].value
    made_for = files.config.task_type
    if made_for in (None, task):
        return True
    if made_for == "CAUSAL_LM" and task == "SEQ_CLS" and not trainable:
        return False
    hint = " Set adapter.create_new_adapter: true to train a new one on top" if made_for == "CAUSAL_LM" else ""
    raise AdapterError(
        f"adapter {files.path} is for task {made_for}, the model here is for {task}; an adapter goes with a model of "
        f"its own task.{hint}"
    )


def _config_for(
    model: PreTrainedModel, files: AdapterFiles, *, trainable: bool, dropout: float | None, has_task: bool
) -> PeftConfig:
    file = files.config
    if file.method != "lora":
        return _method_config_for(model, files, trainable=trainable, has_task=has_task)
    modules = _adapted_modules(model, files)
    return lora_config(
        model,
        names=shortest_names(model, modules),
        rank=file.rank,
        alpha=file.alpha,
        dropout=file.dropout if dropout is None else dropout,
        bias=file.bias,
        use_rslora=file.use_rslora,
        use_dora=file.use_dora,
        lora_bias=file.lora_bias,
        to_save=_modules_to_save(model, file),
        rank_pattern=expand_pattern(file.rank_pattern, modules, key="rank_pattern"),
        alpha_pattern=expand_pattern(file.alpha_pattern, modules, key="alpha_pattern"),
        inference_mode=not trainable,
        has_task=has_task,
        more=file.options,
    )


def _method_config_for(model: PreTrainedModel, files: AdapterFiles, *, trainable: bool, has_task: bool) -> PeftConfig:
    file = files.config
    names: tuple[str, ...] = ()
    if file.target_modules:
        names = method_targets(model, file.method, file.target_modules).names
    options = {name: value for name, value in file.options.items() if name not in START_OPTIONS}
    return method_config(
        model,
        file.method,
        names=names,
        options=options,
        to_save=_modules_to_save(model, file),
        inference_mode=not trainable,
        has_task=has_task,
    )


def _modules_to_save(model: PreTrainedModel, file: LoraFile) -> list[str]:
    """Without the heads that this model lacks: PEFT writes both names that heads have, whichever there is."""
    absent = {name for name in PEFT_HEADS if file.task_type == "SEQ_CLS" and not hasattr(model, name)}
    return [name for name in file.modules_to_save if name not in absent]


def _adapted_modules(model: PreTrainedModel, files: AdapterFiles) -> tuple[str, ...]:
    """The modules that the tensors belong to, which must be the modules that the config names."""
    named: dict[str, None] = {}
    for key in files.tensors:
        for part in LORA_PARTS:
            if part in key:
                named[key.removeprefix(PREFIX).split(part)[0]] = None
    have = {name for name, _ in model.named_modules()}
    strange = sorted(set(named) - have)
    if strange:
        raise IntegrityError(
            f"adapter {files.path} does not fit this base: it has weights for {len(strange)} modules that "
            f"{type(model).__name__} lacks (first: {', '.join(strange[:3])})"
        )
    targets: Any = files.config.target_modules
    if targets == "all-linear":
        targets = "all"
    expected = resolve_targets(model, targets).modules if targets else ()
    missing = [name for name in expected if name not in named]
    surplus = sorted(set(named) - set(expected))
    if surplus or (missing and not files.config.is_partial):
        raise IntegrityError(
            f"adapter {files.path} does not fit this base: {len(missing)} modules that its config targets have no "
            f"weights{_first(missing)}, {len(surplus)} with weights are not targeted{_first(surplus)}"
        )
    return tuple(name for name in expected if name in named)


def _drop_copies_of_base(
    files: AdapterFiles, expected: dict[str, torch.Tensor], model: PreTrainedModel
) -> dict[str, torch.Tensor]:
    """Leave out embedding weights that PEFT saved along although the adapter does not change them."""
    base = {name.replace(".base_layer.", "."): tensor for name, tensor in model.state_dict().items()}
    kept = {}
    for key, tensor in files.tensors.items():
        own = base.get(key.removeprefix(PREFIX).replace(".base_layer.", "."))
        is_copy = (
            key not in expected
            and own is not None
            and own.shape == tensor.shape
            and torch.equal(own.cpu().to(tensor.dtype), tensor)
        )
        if not is_copy:
            kept[key] = tensor
    return kept


def _check_fit(path: Path, expected: dict[str, torch.Tensor], tensors: dict[str, torch.Tensor]) -> None:
    missing = sorted(set(expected) - set(tensors))
    surplus = sorted(set(tensors) - set(expected))
    misshapen = [
        f"{name} is {tuple(tensors[name].shape)}, the base needs {tuple(expected[name].shape)}"
        for name in sorted(set(expected) & set(tensors))
        if tensors[name].shape != expected[name].shape
    ]
    faults = [
        f"{len(names)} tensors {words}{_first(names)}"
        for names, words in ((missing, "are missing"), (surplus, "are not the adapter's"), (misshapen, "do not fit"))
        if names
    ]
    if faults:
        raise IntegrityError(f"adapter {path} does not fit this base: {'; '.join(faults)}")


def _first(names: list[str]) -> str:
    return f" (first: {', '.join(names[:2])})" if names else ""
