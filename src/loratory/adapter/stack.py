"""An adapter plus a fixed update, written as one plain LoRA adapter of the original base.

Two features change the base in memory before training: PiSSA and OLoRA move part of each weight into the adapter, and
`create_new_adapter` merges an earlier adapter first. What was trained then fits only that changed base. Since all of
these changes have low rank, saving stacks them: W + dW_fixed + s B A = W + [s B, B_fixed] [A; A_fixed], a plain LoRA
adapter of the original base with the ranks added, which any tool can load and merge.
"""

from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig, PeftModel
from peft.tuners.lora import LoraLayer

ADAPTER = "default"
ATTRIBUTE = "loratory_fixed_update"
PREFIX = "base_model.model."


@dataclass(frozen=True, slots=True, eq=False)
class LowRank:
    """An update b_OR @ a_RI of one weight, its scale included; float32 on the CPU."""

    a_RI: torch.Tensor
    b_OR: torch.Tensor


def lora_updates(model: PeftModel) -> dict[str, LowRank]:
    """Full module name in the base -> the module's present LoRA update."""
    updates = {}
    for name, module in model.get_base_model().named_modules():
        if isinstance(module, LoraLayer) and ADAPTER in module.lora_A:
            a_RI, b_OR = module.lora_A[ADAPTER].weight, module.lora_B[ADAPTER].weight
            scale = module.scaling[ADAPTER]
            updates[name] = LowRank(_copy(a_RI), _copy(b_OR) * scale)
    return updates


def negate(updates: dict[str, LowRank]) -> dict[str, LowRank]:
    """The updates with the opposite sign."""
    return {name: LowRank(update.a_RI, -update.b_OR) for name, update in updates.items()}


def add(first: dict[str, LowRank], second: dict[str, LowRank]) -> dict[str, LowRank]:
    """The sum of two sets of updates, ranks added."""
    total = dict(first)
    for name, update in second.items():
        if name in total:
            have = total[name]
            update = LowRank(torch.cat([have.a_RI, update.a_RI]), torch.cat([have.b_OR, update.b_OR], dim=1))
        total[name] = update
    return total


def remember_fixed_update(model: PeftModel, fixed: dict[str, LowRank]) -> None:
    """Keep with the model how its base differs in memory from the base on disk."""
    if fixed:
        setattr(model, ATTRIBUTE, fixed)


def fixed_update(model: PeftModel) -> dict[str, LowRank]:
    """How the base in memory differs from the base on disk; empty for most models."""
    found: dict[str, LowRank] = getattr(model, ATTRIBUTE, {})
    return found


def stacked(model: PeftModel, config: LoraConfig) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The adapter with the fixed update on top.

    Returns:
        Tensors under PEFT's file keys, and the fields of the LoraConfig that change with them.
    """
    total = add(lora_updates(model), fixed_update(model))
    tensors = {}
    for name, update in total.items():
        tensors[f"{PREFIX}{name}.lora_A.weight"] = update.a_RI.contiguous()
        tensors[f"{PREFIX}{name}.lora_B.weight"] = update.b_OR.contiguous()
    ranks = {name: update.a_RI.shape[0] for name, update in total.items()}
    usual = max(set(ranks.values()), key=list(ranks.values()).count)
    unusual = {name: rank for name, rank in ranks.items() if rank != usual}
    fields = {
        "r": usual,
        "lora_alpha": usual,
        "rank_pattern": unusual,
        "alpha_pattern": dict(unusual),
        "use_rslora": False,
        "init_lora_weights": True,
        "target_modules": sorted(total),
        "lora_dropout": config.lora_dropout,
    }
    return tensors, fields


def _copy(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().to("cpu", torch.float32, copy=True)
