"""A merge of a model held in memory: for bases that are not plain safetensors; the reference of the streamed one."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel

from loratory.adapter.certificate import measure, probe_logits
from loratory.adapter.files import AdapterFiles
from loratory.adapter.fold import fold_adapter
from loratory.adapter.load import apply_adapter
from loratory.adapter.prepared import PreparedMerge, Written, nothing_to_merge, stop_at_template
from loratory.adapter.probes import probe_prompts
from loratory.model.load import LoadedModel
from loratory.model.precision import DTYPES
from loratory.model.uneven import write_model


@dataclass(slots=True, eq=False)
class _Held:
    """The merged model until it is written; then it is let go, so that only one model is in memory at a time."""

    model: PreTrainedModel | None


def prepare_in_memory(
    loaded: LoadedModel, files: AdapterFiles, *, dtype: str, probes: Sequence[Sequence[int]], reason: str
) -> PreparedMerge:
    """Measure the adapter on its base, then add it.

    Args:
        loaded: The base in float32; consumed.
        files: The adapter.
        dtype: Format of the merged weights, by name.
        probes: Further prompts.
        reason: Why the base cannot be read tensor by tensor, for the certificate.

    Raises:
        AdapterError: The adapter does nothing.
        IntegrityError: It does not fit the base, or the sum does not fit the format.
    """
    prompts = probe_prompts(loaded.tokenizer, loaded.model, probes)
    bare = probe_logits(loaded.model, prompts)
    adapted = apply_adapter(loaded.model, files, trainable=False)
    reference = probe_logits(adapted, prompts)
    effect = measure(reference, bare, prompts)
    folded = fold_adapter(adapted, DTYPES[dtype])
    if not folded.has_update and effect.max_logit_difference == 0:
        raise nothing_to_merge(files)
    _cast(folded.model, DTYPES[dtype], files)
    held = _Held(folded.model)
    written = Written(folded.rounding_loss, folded.is_untied)

    def write(stage: Path) -> Written:
        assert held.model is not None
        write_model(held.model, stage, loaded.tokenizer)
        held.model = None
        return written

    notes = (*files.warnings, f"merged in memory: {reason}")
    if files.manifest is not None and files.manifest.quantization is not None:
        notes = (
            *notes,
            f"the adapter was trained on the base in {files.manifest.quantization} and merged into the unquantised "
            "base; measured against the adapter on that same unquantised base",
        )
    return PreparedMerge(
        source=loaded.source,
        identity=loaded.identity,
        method="in memory",
        tokenizer=loaded.tokenizer,
        dtype=dtype,
        prompts=prompts,
        reference=reference,
        effect=effect,
        num_bytes=sum(p.numel() * p.element_size() for p in folded.model.parameters()),
        notes=notes,
        base_choice=None,
        write=write,
    )


def _cast(model: PreTrainedModel, dtype: torch.dtype, files: AdapterFiles) -> None:
    model.to(dtype)
    model.config.dtype = dtype
    if model.generation_config is not None:
        stop_at_template(model.generation_config, files)
