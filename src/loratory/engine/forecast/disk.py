"""Bytes on disk of what a run writes, to the byte: the safetensors format has no compression and a JSON header."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from peft import PeftModel, get_peft_model_state_dict
from torch import nn
from transformers import PreTrainedModel

from loratory.adapter.stack import ADAPTER
from loratory.config.train import Optimizer

_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_PREFIX_BYTES, _ALIGNMENT = 8, 8

Tensors = Mapping[str, tuple[Sequence[int], torch.dtype]]
"""Name -> shape and number format."""


@dataclass(frozen=True, slots=True)
class DiskSizes:
    """Bytes of safetensors files; beside them stand a few small JSON files and the tokenizer's.

    Attributes:
        final: The adapter, or the model of full fine-tuning, in `final_model/`.
        trainable: The trained tensors in a checkpoint.
        adapter_copy: The same once more in PEFT's form, in a checkpoint.
        optimizer: Moments in a checkpoint.
        is_exact: The optimizer's file is known to the byte (it is not for 8-bit moments).
    """

    final: int
    trainable: int
    adapter_copy: int
    optimizer: int
    is_exact: bool

    @property
    def checkpoint(self) -> int:
        """One checkpoint."""
        return self.trainable + self.adapter_copy + self.optimizer


def safetensors_bytes(tensors: Tensors, *, metadata: Mapping[str, str] | None = None) -> int:
    """Size of a file with these tensors: 8 bytes, the header padded to a multiple of 8, the numbers."""
    order = sorted(tensors, key=lambda name: (-tensors[name][1].itemsize, name))
    header: dict[str, object] = {} if metadata is None else {"__metadata__": dict(metadata)}
    offset = 0
    for name in order:
        shape, dtype = tensors[name]
        size = dtype.itemsize
        for extent in shape:
            size *= extent
        header[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    length = len(json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode())
    return _PREFIX_BYTES + -(-length // _ALIGNMENT) * _ALIGNMENT + offset


def disk_sizes(model: PeftModel | PreTrainedModel, *, optimizer: Optimizer, stacked_ranks: bool = False) -> DiskSizes:
    """Sizes of a run's files.

    Args:
        model: The model in training; its weights may be on the meta device.
        optimizer: Decides the moments.
        stacked_ranks: The adapter began by changing the base, and is written with twice its rank.
    """
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    trainable = safetensors_bytes(_described(trained), metadata={"format": "pt"})
    moments, is_exact = _moments(trained, optimizer)
    if isinstance(model, PeftModel):
        state = get_peft_model_state_dict(model, adapter_name=ADAPTER, save_embedding_layers=False)
        final = safetensors_bytes(_described(state, rank_factor=1 + stacked_ranks), metadata={"format": "pt"})
        copy = final
    else:
        copy = 0
        final = safetensors_bytes(_whole_model(model), metadata={"format": "pt"})
    return DiskSizes(final, trainable, copy, safetensors_bytes(moments), is_exact)


def _described(tensors: Mapping[str, torch.Tensor | nn.Parameter], *, rank_factor: int = 1) -> Tensors:
    found = {}
    for name, t in tensors.items():
        shape = list(t.shape)
        if rank_factor > 1 and ".lora_A." in name:
            shape[0] *= rank_factor
        elif rank_factor > 1 and ".lora_B." in name:
            shape[1] *= rank_factor
        found[name] = (shape, t.dtype)
    return found


def _whole_model(model: PreTrainedModel) -> Tensors:
    """Tensors as save_pretrained writes them: shared ones once, under their first name."""
    seen: set[int] = set()
    found = {}
    for name, t in model.state_dict(keep_vars=True).items():
        if id(t) in seen:
            continue
        seen.add(id(t))
        found[name] = (list(t.shape), t.dtype)
    return found


def _moments(trained: Mapping[str, nn.Parameter], optimizer: Optimizer) -> tuple[Tensors, bool]:
    found: dict[str, tuple[Sequence[int], torch.dtype]] = {}
    is_small = optimizer.endswith("8bit")
    for name, p in trained.items():
        if optimizer == "adamw":
            found[f"{name}//step"] = ([], torch.float32)
            found[f"{name}//exp_avg"] = found[f"{name}//exp_avg_sq"] = (list(p.shape), p.dtype)
        elif optimizer != "sgd":
            dtype = torch.uint8 if is_small and p.numel() >= 4096 else torch.float32
            found[f"{name}//state1"] = found[f"{name}//state2"] = (list(p.shape), dtype)
    return found, optimizer in ("adamw", "sgd")
