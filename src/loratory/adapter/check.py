"""What an adapter section would train, found on a model without weights.

Law kept: the counts are those of `attach_adapter`, number for number, and its errors come before any weight is read.
"""

import copy
from collections.abc import Sequence

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from loratory.adapter.attach import AttachedAdapter, attach_adapter
from loratory.adapter.calibration import INIT_OPTIONS
from loratory.adapter.contradictions import refuse_contradictions
from loratory.adapter.trainable import TrainableReport
from loratory.config import AdapterConfig, QuantizationConfig
from loratory.config.method_capabilities import family_fault, quantised_fault
from loratory.errors import AdapterError
from loratory.model.task import reads_both_ways, task_of

DRAWS_INDICES = frozenset({"boft", "shira", "unilora"})
"""Methods that draw real indices when attached, but look at shapes alone: zeros stand in for the weights."""
READS_WEIGHTS = frozenset({"adamss", "frod"})
"""Methods whose shapes follow from the weights' values; a random copy of the model stands in, if it is small."""
MOST_DRAWN_NUMBERS = 100_000_000


def check_adapter(
    section: AdapterConfig,
    model: PreTrainedModel,
    *,
    quantization: QuantizationConfig | None = None,
    new_modules: Sequence[str] = (),
) -> TrainableReport:
    """Attach the section to a copy of `model` on the meta device, and count; see `attach_without_weights`."""
    return attach_without_weights(section, model, quantization=quantization, new_modules=new_modules).report


def attach_without_weights(
    section: AdapterConfig,
    model: PreTrainedModel,
    *,
    quantization: QuantizationConfig | None = None,
    new_modules: Sequence[str] = (),
) -> AttachedAdapter:
    """Attach the section to a copy of `model` on the meta device.

    Args:
        section: Method, targets and the rest; an adapter at `section.path` is read for its shapes.
        model: The base on the meta device (`with torch.device("meta")`), left as it is. Quantised weights are
            counted as the weights that they stand for.
        quantization: How the base would be kept.
        new_modules: `LoadedModel.new_modules` of the model as it would be loaded.

    Raises:
        AdapterError: What `attach_adapter` would refuse, a combination that was found not to work, or a method
            whose shapes follow from the weights of a large base.
    """
    assert all(parameter.device.type == "meta" for parameter in model.parameters()), "a model without weights is needed"
    is_quantised = quantization is not None and quantization.is_active
    if quantization is not None:
        _refuse(
            quantised_fault(
                section.method, load_in_4bit=quantization.load_in_4bit, load_in_8bit=quantization.load_in_8bit
            )
        )
    _refuse(_misfit(section.method, model))
    if section.method != "full":
        refuse_contradictions(section, is_quantised=is_quantised)
    # No initialisation is made here, and its settings mean nothing without it.
    options = {name: value for name, value in section.options.items() if name not in INIT_OPTIONS}
    plain = section.model_copy(update={"init": "default", "options": options})
    if section.create_new_adapter:
        # The earlier adapter is added to the weights, which are not here; it leaves no trace in shapes.
        plain = plain.model_copy(update={"path": None, "create_new_adapter": False})
    own = copy.deepcopy(model)
    if section.method in READS_WEIGHTS:
        return attach_adapter(_drawn(own, section.method), plain, seed=0, new_modules=new_modules)
    if section.method in DRAWS_INDICES:
        return attach_adapter(_zeros(own), plain, seed=0, new_modules=new_modules)
    with torch.device("meta"):
        return attach_adapter(own, plain, seed=0, new_modules=new_modules)


def _refuse(fault: str | None) -> None:
    if fault is not None:
        raise AdapterError(fault)


def _misfit(method: str, model: PreTrainedModel) -> str | None:
    """What is known of methods and kinds of models."""
    task, name = task_of(model), type(model).__name__
    if method == "full":
        return None
    if task == "seq_cls":
        fact = "bert_classes" if reads_both_ways(type(model.config)) else "llama_classes"
        return family_fault(method, fact, kind=f"{name}, a classification model")
    if task == "seq_2_seq_lm":
        return family_fault(method, "t5", kind=f"{name}, an encoder-decoder")
    if any(isinstance(module, Conv1D) for module in model.modules()):
        return family_fault(method, "gpt2", kind=f"{name}, whose layers are of kind Conv1D")
    return None


def needs_weights(method: str, model: PreTrainedModel) -> bool:
    """Whether what the method trains cannot be known without the weights of this base."""
    return method in READS_WEIGHTS and sum(p.numel() for p in model.parameters()) > MOST_DRAWN_NUMBERS


def _drawn(model: PreTrainedModel, method: str) -> PreTrainedModel:
    if needs_weights(method, model):
        raise AdapterError(
            f"adapter.method: what {method} trains follows from the weights' values, so a base as large as this one "
            "cannot be counted without loading it"
        )
    drawn = model.to_empty(device="cpu")
    for parameter in drawn.parameters():
        nn.init.normal_(parameter, generator=torch.Generator().manual_seed(0))
    return drawn


def _zeros(model: PreTrainedModel) -> PreTrainedModel:
    """The shapes on the CPU, in next to no memory."""
    made = {
        parameter: nn.Parameter(torch.zeros((), dtype=parameter.dtype).expand(parameter.shape))
        for parameter in model.parameters()
    }
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = made[parameter]
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.zeros(buffer.shape, dtype=buffer.dtype)
    return model
