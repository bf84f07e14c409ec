"""Several LoRA adapters of one base as one, by PEFT's own combinations: linear, svd, TIES, DARE and others.

Sources: Yadav et al., "TIES-Merging", 2023; Yu et al., "Language Models are Super Mario" (DARE), 2024.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from peft import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import save_file

from loratory.adapter.files import AdapterFiles, read_adapter
from loratory.adapter.load import apply_adapter
from loratory.adapter.lora import quiet_peft
from loratory.adapter.manifest import TENSORS_FILE, sha256_of, write_manifest
from loratory.adapter.skeleton import Skeleton, open_skeleton
from loratory.adapter.stack import ADAPTER
from loratory.config import ModelConfig
from loratory.errors import AdapterError
from loratory.model.identity import hash_files, weight_files

Combination = Literal[
    "linear",
    "cat",
    "svd",
    "ties",
    "ties_svd",
    "dare_linear",
    "dare_ties",
    "dare_linear_svd",
    "dare_ties_svd",
    "magnitude_prune",
    "magnitude_prune_svd",
]
COMBINATIONS: tuple[str, ...] = get_args(Combination)
COMBINED = "combined"


@dataclass(frozen=True, slots=True)
class Share:
    """An adapter and its weight in a combination."""

    path: Path
    weight: float


def combine_adapters(
    base: ModelConfig,
    shares: Sequence[Share],
    output: Path,
    *,
    combination: str = "svd",
    density: float | None = None,
    seed: int = 42,
) -> list[dict[str, Any]]:
    """Write one LoRA adapter that stands for several.

    Args:
        base: Their base; its weights are not read.
        shares: Adapters with weights; each must be plain LoRA (rsLoRA too) without modules trained in full.
        output: Folder to fill.
        combination: One of `COMBINATIONS`. svd and cat are exact up to the rank; linear adds the factors, which is a
            rough approximation of adding the updates.
        density: Share of the numbers that TIES, DARE and pruning keep, above 0, at most 1.
        seed: Of DARE's draws.

    Returns:
        What was combined, for a certificate: adapter, weight, sha256 of its weights.

    Raises:
        AdapterError: They cannot be combined so.
        IntegrityError: One of them does not belong to this base.
    """
    _check(combination, density)
    skeleton = _skeleton(base)
    identity = hash_files(weight_files(skeleton.folder))
    files = [read_adapter(share.path, base_identity=identity) for share in shares]
    for one in files:
        _check_plain(one)
    adapted = apply_adapter(skeleton.model, files[0], trainable=False)
    names = [ADAPTER]
    for index, one in enumerate(files[1:], start=1):
        own = apply_adapter(_skeleton(base).model, one, trainable=False)
        names.append(f"other_{index}")
        with quiet_peft():
            adapted.add_adapter(names[-1], own.peft_config[ADAPTER])
            set_peft_model_state_dict(adapted, dict(one.tensors), adapter_name=names[-1])
    options = {} if density is None else {"density": density}
    with torch.random.fork_rng(), quiet_peft():
        torch.manual_seed(seed)
        try:
            adapted.add_weighted_adapter(
                names, [share.weight for share in shares], COMBINED, combination_type=combination, **options
            )
        except (ValueError, RuntimeError) as fault:
            raise AdapterError(
                f"these adapters cannot be combined by {combination}: {str(fault).splitlines()[0]} "
                "(svd and cat also take adapters of different rank)"
            ) from fault
        state = get_peft_model_state_dict(adapted, adapter_name=COMBINED, save_embedding_layers=False)
    output.mkdir(parents=True, exist_ok=True)
    save_file({key: tensor.contiguous().clone() for key, tensor in state.items()}, output / TENSORS_FILE)
    config = adapted.peft_config[COMBINED]
    # PEFT gives the sum scale 1 and forgets that alpha / sqrt(rank) would be another.
    config.inference_mode, config.use_rslora, config.target_modules = True, False, sorted(config.target_modules)
    config.save_pretrained(str(output))
    _write_manifest(output, files, identity)
    return [
        {"adapter": share.path.name, "weight": share.weight, "sha256": sha256_of(share.path / TENSORS_FILE)}
        for share in shares
    ]


def _check(combination: str, density: float | None) -> None:
    if combination not in COMBINATIONS:
        raise AdapterError(f"combination {combination!r} is unknown; allowed: {', '.join(COMBINATIONS)}")
    is_sparse = combination.startswith(("ties", "dare", "magnitude"))
    if is_sparse and (density is None or not 0 < density <= 1):
        raise AdapterError(f"{combination} needs a density above 0 and at most 1, got {density}; usual is 0.5")


def _skeleton(base: ModelConfig) -> Skeleton:
    found = open_skeleton(base)
    if isinstance(found, str):
        raise AdapterError(f"adapters can be combined on a base of plain safetensors; here {found}")
    return found


def _check_plain(files: AdapterFiles) -> None:
    config = files.config
    if getattr(config, "use_dora", False) or config.modules_to_save or config.bias != "none":
        raise AdapterError(
            f"adapter {files.path}: DoRA, biases and modules trained in full have no weighted sum; "
            "combine plain LoRA adapters"
        )


def _write_manifest(output: Path, files: Sequence[AdapterFiles], identity: str) -> None:
    manifests = [one.manifest for one in files if one.manifest is not None]
    formats = {manifest.quantization for manifest in manifests}
    template = manifests[0].template if manifests else None
    write_manifest(
        output,
        base_identity=identity,
        quantization=formats.pop() if len(formats) == 1 else None,
        template=template,
    )
