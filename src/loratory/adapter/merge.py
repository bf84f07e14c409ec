"""Merge an adapter into its base and publish the result only when it answers as the adapter on the base does.

The sum is taken in float32, tensor by tensor, and cast once. The merged folder is written to a staging directory, read
from there, measured, and renamed into place with its certificate. The base is read layer by layer where its files allow
it, so a merge needs the memory of a layer and not of a model.
"""

import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import peft
import torch
import transformers

import loratory
from loratory.adapter.certificate import (
    FILE_NAME,
    FORMAT,
    TOLERANCES,
    Certificate,
    Measurement,
    Tolerance,
    certificate_to_json,
    judge,
    measure,
    probe_logits,
)
from loratory.adapter.files import AdapterFiles, read_adapter
from loratory.adapter.manifest import TENSORS_FILE, sha256_of
from loratory.adapter.memory_merge import prepare_in_memory
from loratory.adapter.merge_conditions import check_not_merged, check_output, check_space, check_task, check_tokenizer
from loratory.adapter.peft_file import read_lora_file
from loratory.adapter.prepared import PreparedMerge, Written, rounding_notes
from loratory.adapter.probes import streamed_logits
from loratory.adapter.quantised_base import quantization_of
from loratory.adapter.skeleton import open_skeleton
from loratory.adapter.streamed import streaming_obstacle
from loratory.adapter.streamed_merge import QuantisedBase, StreamedSource, prepare_streamed
from loratory.config import ModelConfig, QuantizationConfig
from loratory.errors import IntegrityError
from loratory.model.identity import hash_files, weight_files
from loratory.model.load import load_model
from loratory.model.precision import DTYPES
from loratory.model.source import locate_model, read_config_dict
from loratory.model.tokenizer import load_tokenizer
from loratory.run.commit import publish_directory, storage_faults

OutputDtype = Literal["auto", "float32", "float16", "bfloat16"]


@dataclass(frozen=True, slots=True)
class QuantisedTraining:
    """How to deal with an adapter that was trained on a quantised base.

    Attributes:
        base: Which form of the base to merge into; auto measures both and takes the one nearer to the adapter as
            trained.
        quantization: The options it was trained with; None takes the format that the adapter's manifest names.
    """

    base: QuantisedBase = "auto"
    quantization: QuantizationConfig | None = None


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
    quantised: QuantisedTraining | None = None,
    combined: Sequence[dict[str, Any]] = (),
) -> Certificate:
    """Merge an adapter into its base: a standard Hugging Face folder with a certificate.

    Args:
        base: The base model; always read unquantised and computed in float32, whatever its section says.
        adapter_dir: The adapter's folder.
        output: Folder to publish; must not exist or be empty, unless `overwrite`.
        dtype: Format of the merged weights; auto is the format of the base's files.
        tolerance: What the merged model must keep; default by dtype, `TOLERANCES`.
        probes: Token ids of further prompts to measure on, besides `PROBE_TEXTS`.
        overwrite: Replace an earlier merged model at `output`; nothing else is ever replaced.
        force_template: Go on when the tokenizer is not the one that the adapter was trained with.
        device: Where a merge in memory computes; default the first GPU, else the CPU.
        trust_remote_code: Run code from the model's own repository.
        quantised: What to do with an adapter of a quantised base.
        combined: For an adapter that was combined from others: what they were, for the certificate.

    Returns:
        The certificate, as written to `merge_certificate.json`.

    Raises:
        RunError: `output` exists.
        AdapterError: The adapter does nothing, is merged into this base already, or has a head of its own.
        IntegrityError: The adapter belongs to another base or is damaged, or the merged model is outside the
            tolerance; then nothing stands under the final name.
        ResourceError: The disk is full.
    """
    check_output(output, overwrite)
    check_not_merged(base, adapter_dir)
    check_task(adapter_dir)
    prepared, files = _prepare(
        base,
        adapter_dir,
        dtype=dtype,
        probes=probes,
        force_template=force_template,
        device=device,
        trust_remote_code=trust_remote_code,
        quantised=quantised or QuantisedTraining(),
    )
    judged_by = TOLERANCES[prepared.dtype] if tolerance is None else tolerance
    check_space(prepared.num_bytes, output.absolute().parent)
    certificate: list[Certificate] = []

    def write(stage: Path) -> None:
        written = prepared.write(stage)
        logits = _merged_logits(stage, prepared.prompts, device, trust_remote_code)
        measured = measure(prepared.reference, logits, prepared.prompts)
        if faults := judge(measured, judged_by):
            raise IntegrityError(
                f"the merged model does not answer as the adapter on its base: {'; '.join(faults)} "
                f"({measured.num_positions} positions, dtype {prepared.dtype}). Nothing was published at {output}. "
                "A format with more bits (float32) keeps more of the adapter"
            )
        certificate.append(_certificate(stage, prepared, files, written, measured, judged_by, combined))
        (stage / FILE_NAME).write_text(certificate_to_json(certificate[0]), encoding="utf-8")

    _publish(output, write, overwrite)
    return certificate[0]


def _prepare(
    base: ModelConfig,
    adapter_dir: Path,
    *,
    dtype: OutputDtype,
    probes: Sequence[Sequence[int]],
    force_template: bool,
    device: torch.device | str | None,
    trust_remote_code: bool,
    quantised: QuantisedTraining,
) -> tuple[PreparedMerge, AdapterFiles]:
    skeleton = open_skeleton(base)
    if not isinstance(skeleton, str) and (obstacle := streaming_obstacle(read_lora_file(adapter_dir))):
        skeleton = obstacle
    if isinstance(skeleton, str):
        section = base.model_copy(update={"dtype": "float32"})
        loaded = load_model(section, device=device, trust_remote_code=trust_remote_code)
        files = read_adapter(adapter_dir, base_identity=loaded.identity)
        if not force_template:
            check_tokenizer(files, loaded.tokenizer, adapter_dir)
        name = _stored_dtype(base) if dtype == "auto" else dtype
        return prepare_in_memory(loaded, files, dtype=name, probes=probes, reason=skeleton), files
    files = read_adapter(adapter_dir, base_identity=(identity := hash_files(weight_files(skeleton.folder))))
    tokenizer = load_tokenizer(base, trust_remote_code=trust_remote_code)
    if not force_template:
        check_tokenizer(files, tokenizer, adapter_dir)
    trained_in = files.manifest.quantization if files.manifest else None
    quantization = quantised.quantization or (quantization_of(trained_in) if trained_in else None)
    prepared = prepare_streamed(
        StreamedSource(skeleton, identity, tokenizer, files),
        dtype=dtype,
        probes=probes,
        quantization=quantization,
        quantised_base=quantised.base,
    )
    return prepared, files


def _merged_logits(
    stage: Path, prompts: list[list[int]], device: torch.device | str | None, trust_remote_code: bool
) -> list[torch.Tensor]:
    """Logits of what lies on disk."""
    section = ModelConfig(model_name_or_path=str(stage), dtype="float32")
    skeleton = open_skeleton(section)
    if isinstance(skeleton, str):
        return probe_logits(load_model(section, device=device, trust_remote_code=trust_remote_code).model, prompts)
    return streamed_logits(skeleton.model, skeleton.parameters, skeleton.original, prompts)


def _certificate(
    stage: Path,
    prepared: PreparedMerge,
    files: AdapterFiles,
    written: Written,
    measured: Measurement,
    judged_by: Tolerance,
    combined: Sequence[dict[str, Any]],
) -> Certificate:
    """Of the merged model in `stage`, which was measured and lies within the tolerance."""
    return Certificate(
        format=FORMAT,
        base_source=prepared.source,
        base_identity=prepared.identity,
        adapter_sha256=sha256_of(files.path / TENSORS_FILE),
        adapter_quantization=files.manifest.quantization if files.manifest else None,
        merged_identity=hash_files(weight_files(stage)),
        dtype=prepared.dtype,
        tolerance=judged_by,
        measured=measured,
        effect=prepared.effect,
        rounding_loss=written.rounding_loss,
        notes=(*rounding_notes(written), *prepared.notes),
        versions=_versions(),
        method=prepared.method,
        base_choice=prepared.base_choice,
        combined=tuple(combined),
    )


def _stored_dtype(base: ModelConfig) -> str:
    """Format of the base's files; float32 for GGUF and when the files do not say."""
    source = locate_model(base)
    if source.gguf_file is not None:
        return "float32"
    config = read_config_dict(source)
    name = str(config.get("dtype", config.get("torch_dtype"))).removeprefix("torch.")
    return name if name in DTYPES else "float32"


def _publish(output: Path, write: Callable[[Path], None], overwrite: bool) -> None:
    with storage_faults(lambda fault: f"the merged model could not be written to {output}: {fault}"):
        publish_directory(output, write, overwrite=overwrite)


def _versions() -> dict[str, str]:
    return {
        "loratory": loratory.__version__,
        "torch": str(torch.__version__),
        "transformers": transformers.__version__,
        "peft": peft.__version__,
        "python": platform.python_version(),
    }
