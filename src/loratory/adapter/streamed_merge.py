"""A merge with at most one layer of the model in memory: measured, then written shard by shard."""

import copy
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from transformers import GenerationConfig, PreTrainedTokenizerBase

from loratory.adapter.base_form import BaseForm
from loratory.adapter.certificate import BaseChoice, Measurement, measure
from loratory.adapter.files import AdapterFiles
from loratory.adapter.pattern import ends_with_any
from loratory.adapter.prepared import PreparedMerge, Written, nothing_to_merge, stop_at_template
from loratory.adapter.probes import probe_prompts, streamed_logits
from loratory.adapter.quantised_base import dequantised, quantised_names
from loratory.adapter.shards import CODES, DTYPES, ShardReader, write_index, write_shard
from loratory.adapter.skeleton import Skeleton
from loratory.adapter.stack import PREFIX
from loratory.adapter.streamed import (
    StreamedAdapter,
    entries_for,
    has_update,
    put_on_skeleton,
    rounding_loss,
    separated,
)
from loratory.config import QuantizationConfig
from loratory.model.precision import DTYPES as NAMED_DTYPES
from loratory.model.shapes import SHAPES_FILE

QuantisedBase = Literal["auto", "original", "dequantised"]
NAMES = {dtype: name for name, dtype in NAMED_DTYPES.items()}


@dataclass(frozen=True, slots=True, eq=False)
class StreamedSource:
    """What a streamed merge starts from.

    Attributes:
        skeleton: The base, not yet adapted.
        identity: Its identity.
        tokenizer: Its tokenizer.
        files: The adapter.
    """

    skeleton: Skeleton
    identity: str
    tokenizer: PreTrainedTokenizerBase
    files: AdapterFiles


def prepare_streamed(
    source: StreamedSource,
    *,
    dtype: str,
    probes: Sequence[Sequence[int]],
    quantization: QuantizationConfig | None,
    quantised_base: QuantisedBase,
) -> PreparedMerge:
    """Measure the adapter on its base.

    Args:
        source: Base and adapter; the skeleton's model is changed.
        dtype: Format by name, or "auto" for that of each tensor.
        probes: Further prompts.
        quantization: How the base was quantised while the adapter was trained, if it was.
        quantised_base: Which form of such a base to merge into.

    Raises:
        AdapterError: The adapter does nothing, or nothing that can be merged.
        IntegrityError: It does not fit the base.
    """
    skeleton = source.skeleton
    name = main_dtype(skeleton.reader) if dtype == "auto" else dtype
    prompts = probe_prompts(source.tokenizer, skeleton.model, probes)
    files = without_copies(source.files, skeleton)
    forms = {"original": skeleton.original}
    if quantization is not None and quantization.is_active:
        quantised = quantised_names(skeleton.model)
        forms["dequantised"] = dequantised(skeleton.original, quantised, quantization)
    bare = {name: streamed_logits(skeleton.model, skeleton.parameters, form, prompts) for name, form in forms.items()}
    merged = put_on_skeleton(skeleton, files)
    choice, notes = None, files.warnings
    if len(forms) > 1:
        choice = _choose(merged, forms, prompts, NAMED_DTYPES[name], quantised_base)
        notes = (*notes, _choice_note(choice, files))
    chosen = choice.chosen if choice else "original"
    merged = replace(merged, base=forms[chosen])
    reference = _adapted_logits(merged, forms[chosen], prompts)
    effect = measure(reference, bare.pop(chosen), prompts)
    if effect.max_logit_difference == 0 and not has_update(merged):
        raise nothing_to_merge(files)
    fixed = None if dtype == "auto" else NAMED_DTYPES[dtype]
    rewritten = quantised if chosen == "dequantised" else frozenset()

    def write(stage: Path) -> Written:
        return _write(merged, stage, source, fixed=fixed, name=name, rewritten=rewritten)

    return PreparedMerge(
        source=skeleton.source,
        identity=source.identity,
        method="streamed",
        tokenizer=source.tokenizer,
        dtype=name,
        prompts=prompts,
        reference=reference,
        effect=effect,
        num_bytes=_num_bytes(merged, fixed),
        notes=notes,
        base_choice=choice,
        write=write,
    )


def main_dtype(reader: ShardReader) -> str:
    """Name of the format that most of the model's bytes have."""
    sizes: dict[str, int] = {}
    for tensor in reader.tensors.values():
        if tensor.is_float and DTYPES[tensor.code] in NAMES:
            sizes[tensor.code] = sizes.get(tensor.code, 0) + tensor.num_bytes
    return NAMES[DTYPES[max(sizes, key=lambda code: sizes[code])]] if sizes else "float32"


def without_copies(files: AdapterFiles, skeleton: Skeleton) -> AdapterFiles:
    """Leave out embedding weights that PEFT saved along although the adapter does not change them."""
    kept = {}
    whole = tuple(files.config.modules_to_save or ())
    for key, tensor in files.tensors.items():
        name = key.removeprefix(PREFIX).replace(".base_layer.", ".")
        module = name.rpartition(".")[0]
        is_copy = (
            name in skeleton.names
            and tensor.ndim == 2
            and not ends_with_any(module, whole)
            and skeleton.reader.tensors[skeleton.names[name]].shape == tuple(tensor.shape)
            and torch.equal(skeleton.read(name).to(tensor.dtype), tensor)
        )
        if not is_copy:
            kept[key] = tensor
    return replace(files, tensors=kept)


def _adapted_logits(merged: StreamedAdapter, base: BaseForm, prompts: list[list[int]]) -> list[torch.Tensor]:
    below = replace(merged, base=base).below
    return streamed_logits(merged.adapted, merged.skeleton.parameters, below, prompts)


def _choose(
    merged: StreamedAdapter,
    forms: dict[str, BaseForm],
    prompts: list[list[int]],
    dtype: torch.dtype,
    wanted: QuantisedBase,
) -> BaseChoice:
    """Measure the adapter on both forms of its base, rounded to the output format, against what was trained."""
    trained = _adapted_logits(merged, forms["dequantised"], prompts)
    found: dict[str, Measurement] = {
        name: measure(trained, _adapted_logits(merged, form.rounded(dtype), prompts), prompts)
        for name, form in forms.items()
    }
    better = min(found, key=lambda form: found[form].mean_kl_nats)
    return BaseChoice(better if wanted == "auto" else wanted, found["original"], found["dequantised"])


def _choice_note(choice: BaseChoice, files: AdapterFiles) -> str:
    def told(found: Measurement) -> str:
        perplexity = math.exp(found.nll_nats) if found.nll_nats is not None else math.nan
        return f"mean KL {found.mean_kl_nats:.2g} nats, perplexity {perplexity:.4g}"

    trained_in = files.manifest.quantization if files.manifest else None
    return (
        f"the adapter was trained on the base in {trained_in or 'a quantised form'}; against the adapter as trained: "
        f"on the original base {told(choice.original)}; on the dequantised base {told(choice.dequantised)}. "
        f"Merged into the {choice.chosen} base"
    )


def _num_bytes(merged: StreamedAdapter, fixed: torch.dtype | None) -> int:
    return sum(
        math.prod(entry.shape) * DTYPES[entry.code].itemsize
        for shard in entries_for(merged, fixed).values()
        for entry in shard.values()
    )


def _write(
    merged: StreamedAdapter,
    stage: Path,
    source: StreamedSource,
    *,
    fixed: torch.dtype | None,
    name: str,
    rewritten: frozenset[str],
) -> Written:
    skeleton = merged.skeleton
    shards = entries_for(merged, fixed, rewritten)
    is_untied = bool(separated(merged))
    total = sum(write_shard(stage / file, entries) for file, entries in shards.items())
    if len(shards) > 1 or next(iter(shards)) != "model.safetensors":
        write_index(stage, {key: file for file, entries in shards.items() for key in entries}, total)
    config = copy.deepcopy(skeleton.model.config)
    config.architectures = [type(skeleton.model).__name__]
    config.dtype = NAMED_DTYPES[name]
    if is_untied:
        config.tie_word_embeddings = False
    config.save_pretrained(stage)
    if (skeleton.folder / SHAPES_FILE).is_file():
        shutil.copyfile(skeleton.folder / SHAPES_FILE, stage / SHAPES_FILE)
    generation = copy.deepcopy(skeleton.generation) or GenerationConfig.from_model_config(config)
    stop_at_template(generation, source.files)
    generation.save_pretrained(stage)
    source.tokenizer.save_pretrained(stage)
    return Written(dict(rounding_loss(merged)), is_untied)


assert set(NAMES) <= set(CODES)
