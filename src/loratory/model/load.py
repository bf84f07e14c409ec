"""Load a base model and its tokenizer, strictly: a weight that is missing or of another shape stops the load.

Law kept: nothing in the model's files chooses code. The attention implementation is ours to pass, pickled weights
are read by the weights-only reader, and code from a repository runs only when the command line allows it.
"""

import logging
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from loratory.config import ModelConfig, QuantizationConfig
from loratory.errors import ModelError, UnsafeError, suggest
from loratory.model.gguf import mark_dequantised, require_gguf
from loratory.model.identity import hash_files, hash_state, weight_files
from loratory.model.precision import choose_device, choose_dtype
from loratory.model.quantise import keep_packing, quantisation_config
from loratory.model.source import (
    ModelSource,
    first_line,
    locate_model,
    read_config_dict,
    refuse_hub_adapter,
    snapshot_folder,
)
from loratory.model.task import (
    MAPPINGS,
    ClassHead,
    choose_task,
    new_head_modules,
    reads_both_ways,
    seed_head,
    set_classes,
)
from loratory.model.tokenizer import load_tokenizer
from loratory.model.uneven import read_shapes, uneven_class

# For model classes that come with a repository's own code.
_FOREIGN: dict[str, Any] = {
    "causal_lm": AutoModelForCausalLM,
    "seq_2_seq_lm": AutoModelForSeq2SeqLM,
    "seq_cls": AutoModelForSequenceClassification,
}


@dataclass(frozen=True, slots=True, eq=False)
class LoadedModel:
    """A base model ready for use, in eval mode.

    Attributes:
        model: The model on its device.
        tokenizer: Its tokenizer, with a pad token.
        source: The folder, GGUF file or hub name it came from.
        identity: sha256 hex over the content of its weight files.
        new_modules: Modules of a classification head that the base does not have; random until they are trained.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    source: str
    identity: str
    new_modules: tuple[str, ...] = ()


def load_model(
    section: ModelConfig,
    *,
    quantization: QuantizationConfig | None = None,
    device: torch.device | str | None = None,
    trust_remote_code: bool = False,
    head: ClassHead | None = None,
) -> LoadedModel:
    """Load a language model, or one with a classification head, and its tokenizer.

    Args:
        section: Which model, tokenizer, revision and precision.
        quantization: 4 or 8 bits for the frozen base; None or inactive leaves it in `section.dtype`.
        device: Where the weights go; default the first GPU, else the CPU.
        trust_remote_code: Run code from the model's own repository. A command line flag, never a config field.
        head: Load with this classification head.

    Raises:
        ModelError: Missing path, unreadable or unsupported model, weights that do not fill it.
        UnsafeError: Pickled weights that hold more than tensors.
        MissingExtraError: gguf or bitsandbytes is needed and absent.
    """
    source = locate_model(section)
    refuse_hub_adapter(source)
    if source.gguf_file is not None:
        require_gguf()
        if quantization is not None and quantization.is_active:
            raise ModelError(
                f"{source.label} is a GGUF file and quantization is on: a GGUF base is dequantised when it is read. "
                "Switch quantization off, or give the original weights as a folder"
            )
    config = _read_config(source, trust_remote_code)
    task = choose_task(section.task, type(config), head, label=source.label) if _is_known(config) else section.task
    tokenizer = load_tokenizer(section, trust_remote_code=trust_remote_code)
    if head is not None:
        set_classes(config, head, pad_token_id=tokenizer.pad_token_id, label=source.label)
    target = choose_device(device)
    dtype = choose_dtype(section.dtype, target)
    model, new_modules = _load_weights(source, config, task, dtype, target, quantization, trust_remote_code, head)
    _check_vocabulary(source, model, tokenizer)
    files = weight_files(snapshot_folder(source), source.gguf_file)
    identity = hash_files(files) if files else hash_state(model)
    return LoadedModel(model, tokenizer, source.label, identity, new_modules)


def closes_prompt(section: ModelConfig) -> bool:
    """Whether the model reads a prompt as a whole that the tokenizer's own end tokens close, as encoders do."""
    model_type = read_config_dict(locate_model(section))["model_type"]
    return model_type in CONFIG_MAPPING and reads_both_ways(CONFIG_MAPPING[model_type])


def _is_known(config: PreTrainedConfig) -> bool:
    """Whether transformers has the model's code itself."""
    return config.model_type in CONFIG_MAPPING and type(config) is CONFIG_MAPPING[config.model_type]


def _read_config(source: ModelSource, trust_remote_code: bool) -> PreTrainedConfig:
    found = read_config_dict(source)
    model_type = found["model_type"]
    if "auto_map" in found and model_type not in CONFIG_MAPPING:
        if not trust_remote_code:
            raise ModelError(
                f"{source.label} needs code from its own repository (model_type {model_type!r}), which is not run "
                "unless you pass --trust-remote-code"
            )
        return AutoConfig.from_pretrained(
            source.name, revision=source.revision, local_files_only=source.is_local, trust_remote_code=True
        )
    if model_type not in CONFIG_MAPPING:
        raise ModelError(
            f"{source.label}: model_type {model_type!r} is unknown to the installed transformers."
            f"{suggest(str(model_type), list(CONFIG_MAPPING))}"
        )
    found.pop("auto_map", None)
    config_class = CONFIG_MAPPING[model_type]
    try:
        return config_class.from_dict(found)
    except (ValueError, TypeError, KeyError, ZeroDivisionError, AttributeError) as fault:
        raise ModelError(
            f"{source.label}: config.json does not describe a {model_type} model: {first_line(fault)}"
        ) from fault


def _load_weights(
    source: ModelSource,
    config: PreTrainedConfig,
    task: str,
    dtype: torch.dtype,
    device: torch.device,
    quantization: QuantizationConfig | None,
    trust_remote_code: bool,
    head: ClassHead | None,
) -> tuple[PreTrainedModel, tuple[str, ...]]:
    """The model in eval mode, and the modules of its head that the files do not hold."""
    task = "causal_lm" if task == "auto" else task
    is_foreign = not _is_known(config)
    model_class: Any = _FOREIGN[task] if is_foreign else MAPPINGS[task][type(config)]
    has_sdpa = is_foreign or getattr(model_class, "_supports_sdpa", False)
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code} if is_foreign else {}
    shapes = read_shapes(Path(source.name)) if source.is_local and source.gguf_file is None else None
    loading_class = model_class if shapes is None else uneven_class(model_class, shapes)
    quantised = quantisation_config(quantization, dtype)
    if quantised is not None:
        options |= {"quantization_config": quantised, "device_map": {"": device}}
    if source.is_local and source.gguf_file is None and not weight_files(Path(source.name)):
        raise ModelError(f"{source.label} holds no weights (model.safetensors, its shards, or pytorch_model.bin)")
    options["attn_implementation"] = "sdpa" if has_sdpa else "eager"
    model, info = _from_pretrained(loading_class, source, config, dtype, options, is_quiet=head is not None)
    if shapes is not None:
        model.__class__ = model_class
    new_modules: tuple[str, ...] = ()
    if head is not None and head.seed is not None and not info.get("mismatched_keys"):
        new_modules = new_head_modules(model, sorted(map(str, info.get("missing_keys", ()))))
        seed_head(model, new_modules, head.seed)
    if not new_modules:
        _check_complete(source, info)
    if source.gguf_file is not None:
        mark_dequantised(model)
    if quantised is None:
        model = model.to(device)
    else:
        keep_packing(model)
    assert isinstance(model, PreTrainedModel)
    return model.eval(), new_modules


def _from_pretrained(
    model_class: Any,
    source: ModelSource,
    config: PreTrainedConfig,
    dtype: torch.dtype,
    options: dict[str, Any],
    *,
    is_quiet: bool,
) -> tuple[Any, dict[str, Any]]:
    """The model as transformers loads it, and what it tells about its weights; its errors in our terms.

    Raises:
        UnsafeError: The weights are pickled and hold more than tensors.
        ModelError: They cannot be loaded.
    """
    report = logging.getLogger("transformers.modeling_utils")
    level = report.level
    try:
        if is_quiet:
            report.setLevel(logging.ERROR)  # a head that is new is no fault here
        model, info = model_class.from_pretrained(
            source.name,
            config=config,
            gguf_file=source.gguf_file,
            revision=source.revision or "main",
            local_files_only=source.is_local,
            dtype=dtype,
            weights_only=True,
            output_loading_info=True,
            # transformers would only say that something does not fit; _check_complete refuses with the names.
            ignore_mismatched_sizes=True,
            **options,
        )
    except pickle.UnpicklingError as fault:
        raise UnsafeError(
            f"{source.label}: its pickled weights hold more than tensors and were not read. "
            "Get the model as safetensors"
        ) from fault
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as fault:
        raise ModelError(f"{source.label} cannot be loaded: {first_line(fault)}") from fault
    finally:
        report.setLevel(level)
    return model, info


def _check_complete(source: ModelSource, info: dict[str, Any]) -> None:
    """transformers fills missing weights with random numbers and a warning; here that is an error."""
    faults = []
    for key, words in (("missing_keys", "are missing"), ("mismatched_keys", "have another shape")):
        names = sorted(str(name[0] if isinstance(name, tuple) else name) for name in info.get(key, ()))
        if names:
            faults.append(f"{len(names)} weights {words} (first: {', '.join(names[:3])})")
    if faults:
        raise ModelError(f"{source.label} does not fill the model that its config.json describes: {'; '.join(faults)}")


def _check_vocabulary(source: ModelSource, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    num_rows = model.get_input_embeddings().weight.shape[0]
    largest = max(tokenizer.get_vocab().values(), default=-1)
    if largest >= num_rows:
        raise ModelError(
            f"the tokenizer has token id {largest} but {source.label} embeds ids 0 to {num_rows - 1}: "
            "they do not belong together"
        )
