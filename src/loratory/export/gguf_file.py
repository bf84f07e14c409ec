"""Write a model as one GGUF file, read it back, compare, and only then give it its name.

The weights go to the file tensor by tensor. The file is opened again by the loader that any GGUF base goes through,
and its logits, its tokens and its greedy answer are held against the model's own.
"""

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from loratory.adapter.certificate import Measurement, Tolerance
from loratory.data.templates import BoundTemplate
from loratory.errors import ModelError, ResourceError, RunError
from loratory.export.gguf_check import GgufDtype, compare_file
from loratory.export.gguf_family import (
    GgufFamily,
    add_hyper_parameters,
    context_length,
    family_of,
    gguf_tensors,
)
from loratory.export.gguf_vocabulary import add_vocabulary, read_vocabulary
from loratory.model.gguf import require_gguf
from loratory.run.commit import fsync_directory, seal, storage_faults
from loratory.run.stage import staging

DTYPES: tuple[GgufDtype, ...] = ("f32", "f16", "bf16", "q8_0")


@dataclass(frozen=True, slots=True)
class GgufReport:
    """What was written and what reading it back showed.

    Attributes:
        path: The file.
        dtype: Format of its matrices.
        architecture: GGUF's name of the architecture.
        num_tensors: Tensors in it.
        num_bytes: Its size.
        context_length: Tokens up to which it answers as the model does.
        measured: Logits of the file against the model's.
        tolerance: What they had to keep.
        question: The question asked of both.
        answer: The model's greedy answer.
        answer_of_file: The file's greedy answer.
        notes: What a reader must know.
    """

    path: Path
    dtype: GgufDtype
    architecture: str
    num_tensors: int
    num_bytes: int
    context_length: int
    measured: Measurement
    tolerance: Tolerance
    question: str
    answer: str
    answer_of_file: str
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self) | {"path": self.path.name}


def export_gguf(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    output: Path,
    *,
    template: BoundTemplate,
    chat_template: str | None,
    dtype: GgufDtype = "f16",
    overwrite: bool = False,
    name: str | None = None,
    notes: Sequence[str] = (),
) -> GgufReport:
    """Write a whole model (no adapter) as a GGUF file.

    Args:
        model: In float32, on any device.
        tokenizer: Its tokenizer.
        output: The file, `.gguf`.
        template: The template it was trained with; gives the stop token and the greedy question's form.
        chat_template: Jinja to write into the file, or None.
        dtype: Format of the matrices; vectors stay float32.
        overwrite: Replace an earlier file.
        name: Name of the model in the file; default the file's.
        notes: Remarks to pass on.

    Raises:
        ModelError: llama.cpp has no such model or tokenizer, or `output` is no .gguf name.
        RunError: The file exists.
        IntegrityError: The file does not answer as the model does; nothing is published.
        ResourceError: The disk is full.
        MissingExtraError: The gguf library is not installed.
    """
    require_gguf()
    _check_output(output, overwrite)
    family = family_of(model.config)
    output.parent.mkdir(parents=True, exist_ok=True)
    _check_space(model, output.parent, dtype)
    with (
        storage_faults(lambda fault: f"{output} could not be written: {fault}; nothing is left of it"),
        staging(output.parent) as stage,
    ):
        file = stage / output.name
        num_tensors, rounded = _write(
            file, model, tokenizer, family, template, chat_template, dtype, name or output.stem
        )
        found = compare_file(file, model, tokenizer, family, template, dtype)
        remarks = (*notes, *rounded, *_remarks(model))
        report = GgufReport(
            path=output,
            dtype=dtype,
            architecture=family.architecture,
            num_tensors=num_tensors,
            num_bytes=file.stat().st_size,
            context_length=context_length(model.config),
            notes=remarks,
            tolerance=found.tolerance,
            measured=found.measured,
            question=found.question,
            answer=found.answer,
            answer_of_file=found.answer_of_file,
        )
        seal(stage)
        file.replace(output)
        fsync_directory(output.parent)
    return report


def _check_output(output: Path, overwrite: bool) -> None:
    if output.suffix != ".gguf":
        raise ModelError(f"--output: {str(output)!r} needs the ending .gguf")
    if output.is_dir():
        raise RunError(f"{output} is a folder; give a file name")
    if output.exists() and not overwrite:
        raise RunError(f"{output} exists already; choose another name, or pass --overwrite")


def _check_space(model: PreTrainedModel, folder: Path, dtype: GgufDtype) -> None:
    bits = {"f32": 32, "f16": 16, "bf16": 16, "q8_0": 8.5}[dtype]
    needed = sum(parameter.numel() for parameter in model.parameters()) * bits / 8
    free = shutil.disk_usage(folder).free
    if free < needed * 1.05:
        raise ResourceError(
            f"the file needs {needed / 2**20:.0f} MiB and {folder} has {free / 2**20:.0f} MiB free; nothing was written"
        )


def _write(
    file: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    family: GgufFamily,
    template: BoundTemplate,
    chat_template: str | None,
    dtype: GgufDtype,
    name: str,
) -> tuple[int, tuple[str, ...]]:
    """Write header and tensors; returns their number and a remark on those that stayed in more bits."""
    from gguf import GGUFWriter, LlamaFileType

    num_rows = model.get_input_embeddings().weight.shape[0]
    vocabulary = read_vocabulary(tokenizer, num_rows=num_rows, stop_token_id=template.stop_token_ids[0])
    writer = GGUFWriter(file, family.architecture)
    kinds = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "bf16": "MOSTLY_BF16", "q8_0": "MOSTLY_Q8_0"}
    writer.add_name(name)
    writer.add_file_type(LlamaFileType[kinds[dtype]])
    writer.add_quantization_version(2)
    add_hyper_parameters(writer, model.config, vocab_size=num_rows)
    add_vocabulary(writer, vocabulary, chat_template=chat_template)
    plan = []
    for tensor_name, values in gguf_tensors(model, family):
        kind = _stored_as(values, dtype)
        plan.append((tensor_name, kind))
        shape, num_bytes = _stored_shape(values, kind)
        writer.add_tensor_info(tensor_name, shape, _numpy_type(kind), num_bytes, raw_dtype=_ggml_type(kind))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for (_, kind), (_, values) in zip(plan, gguf_tensors(model, family), strict=True):
        writer.write_tensor_data(_stored(values, kind))
    writer.close()
    wider = [tensor_name for tensor_name, kind in plan if dtype == "q8_0" and kind == "f16"]
    remark = f"{len(wider)} matrices whose rows are no multiple of 32 stay f16 (first: {wider[0]})" if wider else ""
    return len(plan), (remark,) if remark else ()


def _stored_as(values: np.ndarray[Any, Any], dtype: GgufDtype) -> GgufDtype:
    if values.ndim == 1:
        return "f32"
    return "f16" if dtype == "q8_0" and values.shape[-1] % 32 else dtype


def _ggml_type(kind: GgufDtype) -> Any:
    from gguf import GGMLQuantizationType

    return GGMLQuantizationType[kind.upper()]


def _numpy_type(kind: GgufDtype) -> np.dtype[Any]:
    return np.dtype({"f32": np.float32, "f16": np.float16}.get(kind, np.uint8))


def _stored_shape(values: np.ndarray[Any, Any], kind: GgufDtype) -> tuple[Sequence[int], int]:
    """Shape as the writer wants it (in bytes for types that numpy has not) and size in bytes."""
    from gguf.quants import quant_shape_to_byte_shape

    if kind in ("f32", "f16"):
        return values.shape, values.size * _numpy_type(kind).itemsize
    shape = quant_shape_to_byte_shape(values.shape, _ggml_type(kind))
    return shape, int(np.prod(shape))


def _stored(values: np.ndarray[Any, Any], kind: GgufDtype) -> np.ndarray[Any, Any]:
    if kind in ("f32", "f16"):
        if kind == "f16" and np.abs(values).max() > np.finfo(np.float16).max:
            raise ModelError("a weight is too large for f16; export bf16, q8_0 or f32")
        return values.astype(_numpy_type(kind), copy=False)
    from gguf.quants import quantize

    found: np.ndarray[Any, Any] = quantize(values, _ggml_type(kind))
    return found


def _remarks(model: PreTrainedModel) -> tuple[str, ...]:
    limit, full = context_length(model.config), int(model.config.max_position_embeddings)
    if limit < full:
        return (f"context_length is the sliding window, {limit} tokens: beyond it llama.cpp computes otherwise",)
    return ()
