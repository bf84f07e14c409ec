"""Put what is trained on a base model: a new LoRA adapter, an existing one to continue, or the whole model.

Law kept: nothing trained on nothing. Each targeted layer trains something, or the run stops here.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import PreTrainedModel

from loratory.adapter.calibration import Calibration, with_init_options
from loratory.adapter.contradictions import BASE_CHANGING_INIT, refuse_contradictions, refuse_differences
from loratory.adapter.files import read_adapter
from loratory.adapter.load import apply_adapter, put_on
from loratory.adapter.lora import lora_config, quiet_peft
from loratory.adapter.method import method_config, method_targets
from loratory.adapter.pattern import expand_pattern
from loratory.adapter.stack import LowRank, add, lora_updates, negate, remember_fixed_update
from loratory.adapter.targets import adaptable_modules, resolve_targets
from loratory.adapter.trainable import TrainableReport, count_trainable
from loratory.config import AdapterConfig
from loratory.data.sequence import TokenSequence
from loratory.errors import AdapterError
from loratory.model.quantise import is_quantised
from loratory.model.task import head_modules


@dataclass(frozen=True, slots=True, eq=False)
class AttachedAdapter:
    """A model ready for training.

    Attributes:
        model: A PeftModel, or the base itself for full fine-tuning.
        report: What is trained, for people and for the plan.
    """

    model: PeftModel | PreTrainedModel
    report: TrainableReport


def attach_adapter(
    model: PreTrainedModel,
    section: AdapterConfig,
    *,
    seed: int,
    base_identity: str | None = None,
    new_modules: Sequence[str] = (),
    calibration: Sequence[TokenSequence] = (),
    original_weights: Path | None = None,
) -> AttachedAdapter:
    """Attach what the section describes; the model is changed in place.

    The same seed gives the same initial adapter, whatever was drawn before; the global generator is left as it was.
    Adapter weights are float32 also on a bfloat16 or quantised base.

    Args:
        model: The base, not yet adapted.
        section: Method, rank, targets and the rest.
        seed: Seed of the adapter's initialisation.
        base_identity: `LoadedModel.identity`, checked against the manifest of an adapter at `section.path`.
        new_modules: `LoadedModel.new_modules`, which are trained and saved with the adapter, as every
            classification head is.
        calibration: Training rows for initialisations that look at the data (eva, corda, lora_ga).
        original_weights: The base's safetensors folder, for `init: loftq` on quantised weights.

    Raises:
        AdapterError: Options that contradict each other or the model, targets that match nothing, a targeted layer
            that would train nothing.
        IntegrityError, UnsafeError: The adapter at `section.path` does not fit or may not be read.
    """
    if any(isinstance(module, BaseTunerLayer) for module in model.modules()):
        raise AdapterError("the model carries an adapter already; load the base anew")
    if section.method == "full":
        return _attach_all(model, section)
    refuse_contradictions(section, is_quantised=is_quantised(model))
    if section.path is not None and not section.create_new_adapter:
        return _continue(model, section, base_identity)
    fixed: dict[str, LowRank] = {}
    if section.path is not None:
        model, fixed = _merge_earlier(model, Path(section.path), base_identity)
    to_save = tuple(dict.fromkeys((*section.modules_to_save, *head_modules(model), *new_modules)))
    if section.method != "lora":
        return _attach_method(model, section, seed, to_save)
    data = Calibration(calibration, original_weights)
    return _attach_new(model, section, seed, fixed, to_save, data)


def _attach_method(
    model: PreTrainedModel, section: AdapterConfig, seed: int, to_save: Sequence[str]
) -> AttachedAdapter:
    """A new adapter of any method but LoRA."""
    targets = method_targets(model, section.method, section.targets, section.exclude)
    with quiet_peft():
        config = method_config(model, section.method, names=targets.names, options=section.options, to_save=to_save)
    with _seeded(seed):
        adapted = put_on(model, config, method=section.method)
    return _report(adapted, targets.modules)


def _attach_all(model: PreTrainedModel, section: AdapterConfig) -> AttachedAdapter:
    if is_quantised(model):
        raise AdapterError(
            "adapter.method: full fine-tuning cannot train 4-bit or 8-bit weights; switch quantization off, "
            "or use method lora"
        )
    if section.path is not None:
        raise AdapterError("adapter.path: full fine-tuning takes no adapter; merge it into the base first")
    model.requires_grad_(True)
    owners = [name for name, module in model.named_modules() if any(True for _ in module.parameters(recurse=False))]
    return AttachedAdapter(model=model, report=count_trainable(model, owners))


def _attach_new(
    model: PreTrainedModel,
    section: AdapterConfig,
    seed: int,
    fixed: dict[str, LowRank],
    to_save: Sequence[str],
    data: Calibration,
) -> AttachedAdapter:
    targets = resolve_targets(model, section.targets, [*section.exclude, *_inside(model, to_save, section)])
    changes_base = BASE_CHANGING_INIT.fullmatch(section.init) is not None
    if changes_base and any(not isinstance(model.get_submodule(name), nn.Linear) for name in targets.modules):
        raise AdapterError(
            f"adapter.init: {section.init} needs plain Linear layers; this model has others; use default"
        )
    with quiet_peft():
        config = lora_config(
            model,
            names=targets.names,
            rank=section.rank,
            alpha=2 * section.rank if section.alpha is None else section.alpha,
            dropout=section.dropout,
            bias=section.bias,
            use_rslora=section.use_rslora,
            use_dora=section.use_dora,
            to_save=to_save,
            rank_pattern=expand_pattern(section.rank_pattern, targets.modules, key="adapter.rank_pattern"),
            alpha_pattern=expand_pattern(section.alpha_pattern, targets.modules, key="adapter.alpha_pattern"),
            init=True if section.init in ("default", "loftq") else section.init,
            more=with_init_options(section.init, section.options),
        )
    with _seeded(seed):
        data.before(model, config)
        adapted = put_on(model, config, method="lora")
        data.after(adapted, section.init)
    if changes_base:
        fixed = add(fixed, negate(lora_updates(adapted)))
    remember_fixed_update(adapted, fixed)
    return _report(adapted, targets.modules)


def _inside(model: PreTrainedModel, to_save: Sequence[str], section: AdapterConfig) -> list[str]:
    """Layers that 'all' would adapt although they are trained in full: those of a new pooler."""
    if section.targets != "all":
        return []
    heads = tuple(f"{name}." for name in head_modules(model))
    whole = [f"{name}." for name in to_save if "." in name and not name.startswith(heads or ("\0",))]
    return [name for name in adaptable_modules(model) if name.startswith(tuple(whole) or ("\0",))]


def _continue(model: PreTrainedModel, section: AdapterConfig, base_identity: str | None) -> AttachedAdapter:
    assert section.path is not None
    files = read_adapter(Path(section.path), base_identity=base_identity)
    refuse_differences(section, files.config)
    if files.config.method == "p_tuning" or files.config.options.get("prefix_projection"):
        raise AdapterError(
            f"adapter.path: {section.path} holds the prompts that its encoder made, without the encoder, so it cannot "
            "be trained further; start a new one, or take prompt_tuning"
        )
    dropout = section.dropout if "dropout" in section.model_fields_set else None
    adapted = apply_adapter(model, files, trainable=True, dropout=dropout)
    modules = [name for name, module in adapted.get_base_model().named_modules() if isinstance(module, BaseTunerLayer)]
    return _report(adapted, modules)


def _merge_earlier(
    model: PreTrainedModel, path: Path, base_identity: str | None
) -> tuple[PreTrainedModel, dict[str, LowRank]]:
    """Merge the adapter at `path` into the base in memory; saving adds it back (see `loratory.adapter.stack`)."""
    if is_quantised(model):
        raise AdapterError(
            "adapter.create_new_adapter: the earlier adapter cannot be merged into a 4-bit or 8-bit base exactly; "
            "continue it (create_new_adapter: false) or merge it into the original weights first"
        )
    files = read_adapter(path, base_identity=base_identity)
    if files.config.use_dora or files.config.modules_to_save or files.config.bias != "none" or files.config.lora_bias:
        raise AdapterError(
            f"adapter.create_new_adapter: {path} holds more than plain LoRA (DoRA, biases or whole modules); merge it "
            "with 'loratory adapter merge' and use the result as model.model_name_or_path"
        )
    adapted = apply_adapter(model, files, trainable=False)
    earlier = lora_updates(adapted)
    merged = adapted.merge_and_unload(safe_merge=True)
    assert isinstance(merged, PreTrainedModel)
    return merged, earlier


def _report(adapted: PeftModel, modules: list[str] | tuple[str, ...]) -> AttachedAdapter:
    prefix = "base_model.model."
    return AttachedAdapter(model=adapted, report=count_trainable(adapted, [prefix + name for name in modules]))


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed the CPU generator, which PEFT initialises adapters from, and put it back afterwards."""
    state = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(state)
