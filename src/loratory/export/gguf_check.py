"""A GGUF file against the model it was written from: logits, tokens, and a greedy answer.

The file is opened by the loader that any GGUF base goes through; families that transformers does not read are rebuilt
from the file's tensors.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from loratory.adapter.certificate import Measurement, Tolerance, judge, measure
from loratory.config import ModelConfig
from loratory.data.records import Origin, Record, Turn
from loratory.data.templates import BoundTemplate
from loratory.errors import IntegrityError
from loratory.export.gguf_family import (
    GgufFamily,
    context_length,
    from_gguf,
    gguf_tensors,
    is_read_by_transformers,
    rope_scaling,
)
from loratory.infer.decoding import decode
from loratory.infer.generate import generate
from loratory.model import load_model, load_tokenizer

GgufDtype = Literal["f32", "f16", "bf16", "q8_0"]
# f32 keeps every bit. The others round each weight; the limits leave room to models whose distributions are flatter
# than those measured (docs/export.md).
TOLERANCES: dict[GgufDtype, Tolerance] = {
    "f32": Tolerance(relative_logit_difference=1e-4, top1_agreement=1.0),
    "f16": Tolerance(mean_kl_nats=1e-3, top1_agreement=0.98),
    "bf16": Tolerance(mean_kl_nats=1e-2, top1_agreement=0.95),
    "q8_0": Tolerance(mean_kl_nats=2e-2, top1_agreement=0.9),
}
PROBE_TEXTS = (
    "The capital of France is Paris, and the largest city of Germany is",
    "Question: How do I cancel my roaming package?\nAnswer:",
    "def add(first, second):\n    return first +",
    "1 2 3 4 5 6 7 8 9 10 11 12, 2026-11-30",
    "请问如何取消流量包？ 我想换一个便宜的套餐。",
    "plan_98|9.9|activate; é, ü, 😀, and 'quotes' they're  two spaces.",
)
GREEDY_TOKENS = 24


@dataclass(frozen=True, slots=True)
class FileComparison:
    """What reading a file back showed.

    Attributes:
        measured: Logits of the file against the model's.
        tolerance: What they had to keep.
        question: The question asked of both.
        answer: The model's greedy answer.
        answer_of_file: The file's greedy answer.
    """

    measured: Measurement
    tolerance: Tolerance
    question: str
    answer: str
    answer_of_file: str


def compare_file(
    file: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    family: GgufFamily,
    template: BoundTemplate,
    dtype: GgufDtype,
) -> FileComparison:
    """Open the file as any GGUF base is opened, and hold it against the model.

    Args:
        file: The GGUF file.
        model: The model that it was written from, in float32.
        tokenizer: Its tokenizer.
        family: Its family.
        template: Lays out the question that both answer greedily.
        dtype: Format of the file's matrices.

    Raises:
        IntegrityError: The file's logits are outside the tolerance, its tokens are others, or at f32 its answer is.
    """
    if family.reader_fixes is not None:
        _compare_tokens(tokenizer, load_tokenizer(ModelConfig(model_name_or_path=str(file))))
    found = _read_back(file, model, family)
    limit = context_length(model.config)
    prompts = [ids[:limit] for text in PROBE_TEXTS if (ids := list(tokenizer(text)["input_ids"]))]
    measured = measure(_logits(model, prompts), _logits(found, prompts))
    faults = judge(measured, TOLERANCES[dtype])
    question = "What is the capital of France?"
    record = Record((Turn("user", question),), Origin("export", 1), {"instruction": question})
    prompt = template.generation_prompt(record)
    num_tokens = min(GREEDY_TOKENS, limit - len(prompt))
    stops = template.stop_token_ids
    answers = [
        decode(tokenizer, generate(each, [prompt], stop_token_ids=stops, max_new_tokens=num_tokens)[0])
        for each in (model, found)
    ]
    if dtype == "f32" and answers[0] != answers[1]:
        faults.append(f"to {question!r} it answers {answers[1]!r} where the model answers {answers[0]!r}")
    if faults:
        raise IntegrityError(
            f"the GGUF file does not answer as the model: {'; '.join(faults)} ({measured.num_positions} positions, "
            f"{dtype}). Nothing was published"
        )
    return FileComparison(measured, TOLERANCES[dtype], question, answers[0], answers[1])


def _read_back(file: Path, model: PreTrainedModel, family: GgufFamily) -> PreTrainedModel:
    if not is_read_by_transformers(family, model.config):
        return _rebuild(file, model, family)
    found = load_model(ModelConfig(model_name_or_path=str(file), dtype="float32"), device=model.device).model
    if rope_scaling(model.config) is not None:
        # transformers reads no rope scaling from GGUF, llama.cpp does; the weights are what is compared.
        base = found.base_model
        base.config.rope_parameters = dict(model.config.rope_parameters)
        base.rotary_emb = type(base.rotary_emb)(config=base.config).to(model.device)
    return found


def _rebuild(file: Path, model: PreTrainedModel, family: GgufFamily) -> PreTrainedModel:
    """A copy of the model with the file's weights, for families that transformers does not read."""
    from gguf import GGUFReader, dequantize

    stored = {tensor.name: tensor for tensor in GGUFReader(file).tensors}
    copy = type(model)(model.config).to(model.device, torch.float32).eval()
    with torch.no_grad():
        for (name, _), parameter in zip(gguf_tensors(model, family), copy.parameters(), strict=True):
            values = dequantize(stored[name].data, stored[name].tensor_type)
            parameter.copy_(torch.from_numpy(np.array(from_gguf(family, name, values, model.config))))
    return copy


def _compare_tokens(tokenizer: PreTrainedTokenizerBase, found: PreTrainedTokenizerBase) -> None:
    for text in PROBE_TEXTS:
        wanted, ids = (list(each(text, add_special_tokens=False)["input_ids"]) for each in (tokenizer, found))
        if wanted != ids:
            raise IntegrityError(
                f"the tokenizer read back from the GGUF file cuts {text!r} into {ids} where the model's own gives "
                f"{wanted}. Nothing was published"
            )


def _logits(model: PreTrainedModel, prompts: Sequence[Sequence[int]]) -> list[torch.Tensor]:
    """Logits after every token of each prompt, float32 [T, V] each, on the CPU."""
    with torch.inference_mode():
        return [
            model(input_ids=torch.tensor([list(ids)], device=model.device), use_cache=False).logits[0].float().cpu()
            for ids in prompts
        ]
