"""What is served: the base and its adapters under their names, each with its template, ready in memory."""

import copy
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from loratory.config import ModelConfig, QuantizationConfig
from loratory.data.templates import BoundTemplate, bind_template
from loratory.errors import ConfigError, ModelError
from loratory.infer.flat.model import FlatModel, flat_refusal
from loratory.infer.generate import context_length
from loratory.infer.rows_at_once import rows_at_once
from loratory.infer.sampling import Sampling
from loratory.infer.server.decoder import Decoder
from loratory.infer.server.engine import Engine
from loratory.infer.server.flat_decoder import FlatDecoder
from loratory.infer.server.limits import ServerLimits
from loratory.infer.server.padded_decoder import PaddedDecoder
from loratory.infer.server.variants import Variants
from loratory.infer.session import compare_contracts
from loratory.model import load_model
from loratory.model.task import task_of
from loratory.tree.fused.weights import LayerWeights, read_layers

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_UNLIMITED_CONTEXT = 8192
_LAYER_LINEARS = frozenset(f"{name}_proj" for name in ("q", "k", "v", "o", "gate", "up", "down"))


@dataclass(frozen=True, slots=True)
class ServedSource:
    """One name to serve, before anything is loaded.

    Attributes:
        name: What clients call it.
        adapter_dir: The adapter's folder; None is the base itself.
        template: Name of its prompt template.
        contract: The template's contract as training wrote it, or None.
        sampling: How tokens are drawn where a request does not say; None takes the likeliest.
    """

    name: str
    adapter_dir: Path | None
    template: str
    contract: Mapping[str, object] | None = None
    sampling: Sampling | None = None


@dataclass(frozen=True, slots=True, eq=False)
class ServedModel:
    """A name that is served.

    Attributes:
        name: What clients call it.
        variant: Its number in the engine.
        template: Its prompt template.
        sampling: How tokens are drawn where a request does not say.
    """

    name: str
    variant: int
    template: BoundTemplate
    sampling: Sampling | None


@dataclass(frozen=True, slots=True, eq=False)
class Service:
    """Everything that requests need.

    Attributes:
        models: Served models by name.
        engine: What answers; not started yet.
        tokenizer: For prompts, under `tokenizer_lock`.
        tokenizer_lock: A tokenizer may not be used by two threads at once.
        answer_tokenizer: The engine's own copy.
        context: Most tokens of prompt and answer.
        path: 'flat' or 'padded'.
        reason: Why not flat, or None.
    """

    models: Mapping[str, ServedModel]
    engine: Engine
    tokenizer: PreTrainedTokenizerBase
    tokenizer_lock: threading.Lock
    answer_tokenizer: PreTrainedTokenizerBase
    context: int
    path: str
    reason: str | None


def open_service(
    base: ModelConfig,
    sources: Sequence[ServedSource],
    *,
    limits: ServerLimits,
    quantization: QuantizationConfig | None = None,
    force_template: bool = False,
    device: torch.device | str | None = None,
    trust_remote_code: bool = False,
) -> Service:
    """Load base and adapters.

    Args:
        base: The one base of all.
        sources: What to serve, at least one.
        limits: Gives the number of slots and the context.
        quantization: 4 or 8 bits for the base.
        force_template: Go on when a template differs from the one of training.
        device: Where the weights go; default the first GPU, else the CPU.
        trust_remote_code: Run code from the model's own repository.

    Raises:
        ConfigError: A name is not allowed or comes twice.
        ModelError: The base cannot be loaded or does not write text.
        AdapterError, IntegrityError, UnsafeError: An adapter cannot be loaded or is of another base.
        TemplateError: A template is unknown.
    """
    _check_names(sources)
    loaded = load_model(base, quantization=quantization, device=device, trust_remote_code=trust_remote_code)
    if task_of(loaded.model) != "causal_lm":
        raise ModelError(f"{base.model_name_or_path}: only causal language models can be served")
    variants = Variants(loaded.model, loaded.identity)
    models: dict[str, ServedModel] = {}
    for source in sources:
        template = bind_template(source.template, loaded.tokenizer)
        if source.contract is not None and not force_template:
            compare_contracts(source.contract, template.contract(), place=source.name)
        variant = 0 if source.adapter_dir is None else variants.add(source.adapter_dir)
        models[source.name] = ServedModel(source.name, variant, template, source.sampling)
    context = min(n for n in (context_length(loaded.model) or _UNLIMITED_CONTEXT, limits.max_context) if n)
    decoder, reason = _decoder(variants, context=context, max_slots=limits.max_slots)
    return Service(
        models=models,
        engine=Engine(variants, decoder),
        tokenizer=loaded.tokenizer,
        tokenizer_lock=threading.Lock(),
        answer_tokenizer=copy.deepcopy(loaded.tokenizer),
        context=context,
        path="flat" if reason is None else "padded",
        reason=reason,
    )


def _check_names(sources: Sequence[ServedSource]) -> None:
    faults = [
        f"model name {source.name!r}: use 1 to 64 letters, digits, '.', '_' and '-', the first a letter or digit"
        for source in sources
        if not NAME.fullmatch(source.name)
    ]
    names = [source.name for source in sources]
    faults += [f"model name {name!r} is given twice" for name in sorted(set(names)) if names.count(name) > 1]
    if faults:
        raise ConfigError(faults)


def _decoder(variants: Variants, *, context: int, max_slots: int) -> tuple[Decoder, str | None]:
    """The decoder, and why it is not the flat one."""
    layers: list[tuple[LayerWeights, ...]] = []
    reason = None
    for variant in range(len(variants)):
        variants.use(variant)
        reason = reason or flat_refusal(variants.base, longest=context) or _strange_part(variants, variant)
        if reason is None:
            layers.append(read_layers(variants.base))
    variants.use(0)
    is_flat = reason is None
    num_slots = min(max_slots, rows_at_once(variants.base, longest_tokens=context, is_padded=not is_flat))
    if not is_flat:
        return PaddedDecoder(variants, num_slots=num_slots), reason
    return FlatDecoder(FlatModel(variants.base, variants=layers[1:]), num_slots=num_slots), None


def _strange_part(variants: Variants, variant: int) -> str | None:
    """What an adapter has that is no update of a layer's linear map."""
    strange = sorted(variants.exchanged_names(variant) - _LAYER_LINEARS)
    return f"an adapter changes {', '.join(strange)}" if strange else None
