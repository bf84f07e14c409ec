"""Merge an adapter into its base and publish the result only when it answers as the adapter on the base does.

The sum is taken in float32, tensor by tensor, with PEFT's own algebra, and cast once. The merged folder is written to
a staging directory, loaded from there, measured, and renamed into place with its certificate.
"""

import platform
import shutil
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import peft
import torch
import transformers
from safetensors import SafetensorError
from transformers import PreTrainedModel, PreTrainedTokenizerBase

import loratory
from loratory.adapter.certificate import (
    FILE_NAME,
    FORMAT,
    ROUNDING_WARNING,
    TOLERANCES,
    Certificate,
    Measurement,
    Tolerance,
    certificate_to_json,
    judge,
    measure,
    probe_logits,
    read_certificate,
)
from loratory.adapter.fold import FoldedModel, fold_adapter
from loratory.adapter.load import AdapterFiles, apply_adapter, read_adapter
from loratory.adapter.manifest import TENSORS_FILE, sha256_of
from loratory.config import ModelConfig
from loratory.data.contract import tokenizer_sha256
from loratory.errors import AdapterError, IntegrityError, ResourceError, RunError
from loratory.model.load import LoadedModel, load_model
from loratory.model.precision import DTYPES
from loratory.model.source import locate_model, read_config_dict
from loratory.model.uneven import write_model
from loratory.run.commit import discard, move_into_place, publish_directory, storage_fault

OutputDtype = Literal["auto", "float32", "float16", "bfloat16"]
MAX_PROBE_TOKENS = 1024
PROBE_TEXTS = (
    "The capital of France is Paris, and the largest city of Germany is",
    "Question: How do I cancel my roaming package?\nAnswer:",
    "def add(first, second):\n    return first +",
    "1 2 3 4 5 6 7 8 9 10 11 12",
    "请问如何取消流量包？ 我想换一个便宜的套餐。",
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\nName three colours.\n\n### Response:\n",
    "She opened the letter, read it twice, and then",
    "plan_98|9.9|activate; é, ü, 😀, and 'quotes'.",
)


@dataclass(frozen=True, slots=True)
class _Merged:
    """What is known before the merged model is on disk."""

    reference: list[torch.Tensor]
    effect: Measurement
    rounding_loss: dict[str, float]
    notes: tuple[str, ...]


def merge_adapter(
    base: ModelConfig,
    adapter_dir: Path,
    output: Path,
    *,
    dtype: OutputDtype = "auto",
    tolerance: Tolerance | None = None,
    probes: Sequence[Sequence[int]] = (),
    overwrite: bool = False,
    force_template: bool = False,
    device: torch.device | str | None = None,
    trust_remote_code: bool = False,
) -> Certificate:
    """Merge an adapter into its base: a standard Hugging Face folder with a certificate.

    Args:
        base: The base model; always loaded unquantised and in float32, whatever its section says.
        adapter_dir: The adapter's folder.
        output: Folder to publish; must not exist or be empty, unless `overwrite`.
        dtype: Format of the merged weights; auto is the format of the base's files.
        tolerance: What the merged model must keep; default by dtype, `TOLERANCES`.
        probes: Token ids of further prompts to measure on, besides `PROBE_TEXTS`.
        overwrite: Replace an earlier merged model at `output`; nothing else is ever replaced.
        force_template: Go on when the tokenizer is not the one that the adapter was trained with.
        device: Where the arithmetic is done; default the first GPU, else the CPU.
        trust_remote_code: Run code from the model's own repository.

    Returns:
        The certificate, as written to `merge_certificate.json`.

    Raises:
        RunError: `output` exists.
        AdapterError: The adapter does nothing, or is merged into this base already.
        IntegrityError: The adapter belongs to another base or is damaged, or the merged model is outside the
            tolerance; then nothing stands under the final name.
        ResourceError: The disk is full.
    """
    _check_output(output, overwrite)
    _check_not_merged(base, adapter_dir)
    name = _stored_dtype(base) if dtype == "auto" else dtype
    judged_by = TOLERANCES[name] if tolerance is None else tolerance
    loaded = load_model(
        base.model_copy(update={"dtype": "float32"}), device=device, trust_remote_code=trust_remote_code
    )
    files = read_adapter(adapter_dir, base_identity=loaded.identity)
    if not force_template:
        _check_tokenizer(files, loaded.tokenizer, adapter_dir)
    prompts = _probe_prompts(loaded.tokenizer, loaded.model, probes)
    model, merged = _merge(loaded.model, files, prompts, DTYPES[name])
    _prepare(model, files, DTYPES[name])
    _check_space(model, output.absolute().parent)
    certificate: list[Certificate] = []

    def write(stage: Path) -> None:
        write_model(model, stage, loaded.tokenizer)
        found = _load_merged(stage, trust_remote_code, device)
        measured = measure(merged.reference, probe_logits(found.model, prompts))
        faults = judge(measured, judged_by)
        if faults:
            raise IntegrityError(
                f"the merged model does not answer as the adapter on its base: {'; '.join(faults)} "
                f"({measured.num_positions} positions, dtype {name}). Nothing was published at {output}. "
                "A format with more bits (float32) keeps more of the adapter"
            )
        certificate.append(
            Certificate(
                format=FORMAT,
                base_source=loaded.source,
                base_identity=loaded.identity,
                adapter_sha256=sha256_of(adapter_dir / TENSORS_FILE),
                adapter_quantization=files.manifest.quantization if files.manifest else None,
                merged_identity=found.identity,
                dtype=name,
                tolerance=judged_by,
                measured=measured,
                effect=merged.effect,
                rounding_loss=merged.rounding_loss,
                notes=merged.notes,
                versions=_versions(),
            )
        )
        (stage / FILE_NAME).write_text(certificate_to_json(certificate[0]), encoding="utf-8")

    _publish(output, write, overwrite)
    return certificate[0]


def _check_output(output: Path, overwrite: bool) -> None:
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    if not overwrite:
        raise RunError(f"{output} exists already and is not empty; choose another output, or pass overwrite")
    if not (output / FILE_NAME).is_file():
        raise RunError(
            f"{output} is not a merged model (it holds no {FILE_NAME}), so it is not overwritten; "
            "choose another output or remove it yourself"
        )


def _check_tokenizer(files: AdapterFiles, tokenizer: PreTrainedTokenizerBase, adapter_dir: Path) -> None:
    """The merged folder gets this tokenizer: it must be the one of the adapter's template contract, if there is one."""
    contract = files.manifest.template if files.manifest else None
    trained = contract.get("tokenizer_sha256") if contract else None
    found = tokenizer_sha256(tokenizer)
    if trained is not None and trained != found:
        raise IntegrityError(
            f"{adapter_dir}: trained with another tokenizer (sha256 {trained}; the base's now {found}), so the merged "
            "model would read other tokens. Use the run's own tokenizer (model.tokenizer_name_or_path), or give "
            "--force-template if the difference is meant"
        )


def _check_not_merged(base: ModelConfig, adapter_dir: Path) -> None:
    earlier = read_certificate(Path(base.model_name_or_path))
    weights = adapter_dir / TENSORS_FILE
    if earlier is not None and weights.is_file() and sha256_of(weights) == earlier.adapter_sha256:
        raise AdapterError(
            f"{base.model_name_or_path} is a merged model that holds this adapter already; merging it again would "
            f"count it twice. Merge into the original base ({earlier.base_source})"
        )


def _stored_dtype(base: ModelConfig) -> str:
    """Format of the base's files; float32 for GGUF and when the files do not say."""
    source = locate_model(base)
    if source.gguf_file is not None:
        return "float32"
    config = read_config_dict(source)
    name = str(config.get("dtype", config.get("torch_dtype"))).removeprefix("torch.")
    return name if name in DTYPES else "float32"


def _probe_prompts(
    tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, probes: Sequence[Sequence[int]]
) -> list[list[int]]:
    """Fixed and given prompts, cut to the model's context and together to `MAX_PROBE_TOKENS`."""
    room = MAX_PROBE_TOKENS
    longest = getattr(model.config, "max_position_embeddings", None) or MAX_PROBE_TOKENS
    prompts = []
    for ids in (*(tokenizer(text)["input_ids"] for text in PROBE_TEXTS), *probes):
        prompt = list(ids)[: min(room, longest)]
        if prompt:
            prompts.append(prompt)
            room -= len(prompt)
    return prompts


def _merge(
    base: PreTrainedModel, files: AdapterFiles, prompts: Sequence[Sequence[int]], dtype: torch.dtype
) -> tuple[PreTrainedModel, _Merged]:
    """Measure, then add the adapter into the float32 weights of `base`, which is changed."""
    bare = probe_logits(base, prompts)
    adapted = apply_adapter(base, files, trainable=False)
    reference = probe_logits(adapted, prompts)
    effect = measure(reference, bare)
    folded = fold_adapter(adapted, dtype)
    if not folded.has_update and effect.max_logit_difference == 0:
        raise AdapterError(
            f"adapter {files.path} does nothing: the base answers the same without it (it was saved untrained, or "
            "its B matrices are zero). There is nothing to merge"
        )
    return folded.model, _Merged(reference, effect, folded.rounding_loss, _notes(folded, files))


def _notes(folded: FoldedModel, files: AdapterFiles) -> tuple[str, ...]:
    notes = list(files.warnings)
    rounding_loss = folded.rounding_loss
    lossy = [name for name, loss in rounding_loss.items() if loss > ROUNDING_WARNING]
    if lossy:
        worst = max(lossy, key=lambda name: rounding_loss[name])
        notes.append(
            f"rounding lost more than {ROUNDING_WARNING:.0%} of the update in {len(lossy)} of {len(rounding_loss)} "
            f"tensors (worst {worst}: {rounding_loss[worst]:.0%}); float32 output or the separate adapter keeps it"
        )
    if files.manifest is not None and files.manifest.quantization is not None:
        notes.append(
            f"the adapter was trained on the base in {files.manifest.quantization} and merged into the unquantised "
            "base; measured against the adapter on that same unquantised base"
        )
    if folded.is_untied:
        notes.append("input and output embeddings are no longer shared: the adapter changed them differently")
    return tuple(notes)


def _prepare(model: PreTrainedModel, files: AdapterFiles, dtype: torch.dtype) -> None:
    """Cast to the output format; make the model stop at the template's stop tokens, too."""
    model.to(dtype)
    model.config.dtype = dtype
    contract = files.manifest.template if files.manifest is not None else None
    stops = list(contract.get("stop_token_ids", [])) if contract else []
    generation = model.generation_config
    if stops and generation is not None:
        known = generation.eos_token_id
        known = [] if known is None else known if isinstance(known, list) else [known]
        generation.eos_token_id = [*known, *(stop for stop in stops if stop not in known)]


def _check_space(model: PreTrainedModel, parent: Path) -> None:
    needed = sum(p.numel() * p.element_size() for p in model.parameters())
    while not parent.exists():
        parent = parent.parent
    free = shutil.disk_usage(parent).free
    if free < needed * 1.02:
        raise ResourceError(
            f"the merged model needs {needed / 2**20:.0f} MiB and {parent} has {free / 2**20:.0f} MiB free; "
            "nothing was written. Free some space or choose another output"
        )


def _load_merged(stage: Path, trust_remote_code: bool, device: torch.device | str | None) -> LoadedModel:
    section = ModelConfig(model_name_or_path=str(stage), dtype="float32")
    return load_model(section, device=device, trust_remote_code=trust_remote_code)


def _publish(output: Path, write: Callable[[Path], None], overwrite: bool) -> None:
    try:
        if not (overwrite and output.exists()):
            publish_directory(output, write)
            return
        fresh = output.with_name(f".{output.name}.{uuid.uuid4().hex}")
        publish_directory(fresh, write)
        discard(output)
        move_into_place(fresh, output)
    except (OSError, SafetensorError) as error:
        fault = storage_fault(error)
        if fault is None:
            raise
        raise ResourceError(f"the merged model could not be written to {output}: {fault}") from error


def _versions() -> dict[str, str]:
    return {
        "loratory": loratory.__version__,
        "torch": str(torch.__version__),
        "transformers": transformers.__version__,
        "peft": peft.__version__,
        "python": platform.python_version(),
    }
