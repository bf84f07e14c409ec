"""What vLLM serves of an adapter: the ranks it knows, and what it would refuse or compute otherwise."""

from collections.abc import Mapping, Sequence
from typing import Any

# vLLM's --max-lora-rank (vllm/config/lora.py); releases before 2025 end at 64.
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
OLD_LIMIT = 64


def served_rank(rank: int) -> int:
    """The least value of `--max-lora-rank` that serves a rank, at most the last of `RANKS`."""
    return next(allowed for allowed in RANKS if rank <= allowed)


def obstacles(found: Mapping[str, Any], tensors: Sequence[str]) -> list[str]:
    """Why vLLM cannot serve an adapter: its configuration and the names of its tensors."""
    faults = []
    if found.get("peft_type") != "LORA":
        return [f"it serves LoRA adapters, this is {found.get('peft_type')}"]
    if found.get("use_dora"):
        faults.append("DoRA: vLLM does not compute its magnitudes")
    if int(found.get("r", 0)) > RANKS[-1]:
        faults.append(f"rank {found['r']}: its largest is {RANKS[-1]}")
    if found.get("rank_pattern") or found.get("alpha_pattern"):
        faults.append("layers of different rank or alpha: vLLM scales all layers alike")
    if found.get("bias", "none") != "none" or found.get("lora_bias"):
        faults.append("trained biases are not read")
    if found.get("modules_to_save") or found.get("trainable_token_indices"):
        faults.append("modules trained in full (modules_to_save) are not read")
    if any("lora_embedding_" in name for name in tensors):
        faults.append("an adapted embedding is not read by current releases")
    others = [name for name in tensors if ".lora_" not in name]
    if others and not faults:
        faults.append(f"{len(others)} tensors are no LoRA matrices (first: {others[0]})")
    return faults
