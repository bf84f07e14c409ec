"""Is an adapter sound, and does it belong to a base? Everything that PEFT loads in silence is a finding here.

Nothing that the adapter's files name is imported or fetched, and the base's weights are read layer by layer.
"""

from dataclasses import dataclass
from pathlib import Path

import torch

from loratory.adapter.files import AdapterFiles, read_adapter
from loratory.adapter.findings import Findings
from loratory.adapter.inspect import AdapterCard, describe_adapter
from loratory.adapter.load import apply_adapter
from loratory.adapter.skeleton import Skeleton, open_skeleton
from loratory.adapter.streamed import StreamedAdapter, put_on_skeleton, streaming_obstacle
from loratory.adapter.streamed_merge import without_copies
from loratory.config import ModelConfig
from loratory.errors import LoratoryError
from loratory.model.identity import hash_files, weight_files
from loratory.model.load import load_model

MAX_SCALE = 32.0
MIN_SCALE = 1 / 64
MAX_SHARE = 1.0
"""Above this ||dW|| / ||W||, an update outweighs what it is added to."""


@dataclass(frozen=True, slots=True, eq=False)
class AdapterExamination:
    """What was found about an adapter.

    Attributes:
        findings: In the order of looking; its verdict is the examination's.
        card: What the adapter holds, when its files could be read.
        shares: Full name of a changed weight -> ||dW|| / ||W||, when a base was given.
    """

    findings: Findings
    card: AdapterCard | None
    shares: dict[str, float]


def examine_adapter(path: Path, base: ModelConfig | None = None) -> AdapterExamination:
    """Look into an adapter folder; nothing is raised for what is wrong with it.

    Args:
        path: The folder.
        base: The base it is meant for: identity, keys, shapes and relative size are checked too.

    Raises:
        ModelError: The base is missing or damaged.
    """
    findings = Findings()
    skeleton = open_skeleton(base) if base is not None else None
    try:
        files = read_adapter(path)
    except LoratoryError as error:
        findings.add("files", "fault", str(error))
        return AdapterExamination(findings, None, {})
    findings.add("files", "fine", f"{len(files.tensors)} tensors, all finite")
    card = describe_adapter(path)
    _look_at_base(findings, files, card, skeleton)
    _look_at_effect(findings, card)
    shares: dict[str, float] = {}
    if base is not None and isinstance(skeleton, Skeleton) and (obstacle := streaming_obstacle(files.config)):
        with findings.collecting("shapes"):
            apply_adapter(load_model(base).model, files, trainable=False)
            findings.add("shapes", "fine", f"fits the base, which was loaded whole ({obstacle})")
    elif isinstance(skeleton, Skeleton):
        with findings.collecting("shapes"):
            merged = put_on_skeleton(skeleton, without_copies(files, skeleton))
            findings.add("shapes", "fine", f"fits the base: {len(merged.changed)} weights are changed")
            shares = relative_sizes(merged)
            _look_at_shares(findings, shares)
    elif isinstance(skeleton, str):
        findings.add("shapes", "doubt", f"not compared with the base: {skeleton}")
    return AdapterExamination(findings, card, shares)


def relative_sizes(merged: StreamedAdapter) -> dict[str, float]:
    """||dW|| / ||W|| of each changed weight, by full name."""
    shares = {}
    for name in sorted(merged.changed):
        update, size = 0.0, merged.base.read(name).double().square().sum().item()
        for _, part in merged.blocks(name):
            update += part.double().square().sum().item()
        shares[name] = (update / size) ** 0.5 if size > 0 else (0.0 if update == 0 else float("inf"))
    return shares


def _look_at_base(findings: Findings, files: AdapterFiles, card: AdapterCard, skeleton: Skeleton | str | None) -> None:
    named = f"; its PEFT file names {card.base_name!r}" if card.base_name else ""
    if files.manifest is None:
        findings.add("base", "doubt", f"no manifest: nothing proves which base it was trained on{named}")
        return
    findings.add("manifest", "fine", "neither file was changed since it was saved")
    if isinstance(skeleton, Skeleton):
        identity = hash_files(weight_files(skeleton.folder))
        same = identity == files.manifest.base_identity
        text = f"{skeleton.source} has identity {identity[:16]}…"
        if same:
            findings.add("base", "fine", f"the base it was trained on ({text})")
        else:
            trained = files.manifest.base_identity[:16]
            findings.add("base", "fault", f"trained on another base ({trained}…; {text}). Adapters do not transfer")
    else:
        findings.add("base", "fine", f"trained on the base with identity {files.manifest.base_identity[:16]}…{named}")


def _look_at_effect(findings: Findings, card: AdapterCard) -> None:
    if card.has_no_effect:
        findings.add("effect", "fault", "it does nothing: every update is zero (saved untrained)")
    elif card.layers:
        silent = [layer.module for layer in card.layers if layer.norm == 0]
        norms = sorted(layer.norm for layer in card.layers)
        text = f"norm of s B A per layer: {norms[0]:.3g} to {norms[-1]:.3g}"
        if silent:
            findings.add("effect", "doubt", f"{len(silent)} of {len(norms)} layers do nothing (first: {silent[0]})")
        else:
            findings.add("effect", "fine", text)
    scales = sorted({layer.scale for layer in card.layers})
    if scales and (scales[-1] > MAX_SCALE or scales[0] < MIN_SCALE):
        findings.add(
            "alpha",
            "doubt",
            f"the update is multiplied by {scales[0]:g} to {scales[-1]:g} (alpha {card.alpha:g}, rank {card.rank}); "
            f"usual is 1 to 2, suspicious below {MIN_SCALE:g} or above {MAX_SCALE:g}: was alpha edited?",
        )
    elif scales:
        findings.add("alpha", "fine", f"scale {', '.join(f'{scale:g}' for scale in scales[:4])}")


def _look_at_shares(findings: Findings, shares: dict[str, float]) -> None:
    if not shares:
        return
    broken = [name for name, share in shares.items() if not torch.isfinite(torch.tensor(share))]
    worst = max(shares, key=lambda name: shares[name])
    if broken:
        findings.add("values", "fault", f"{len(broken)} merged weights are not finite (first: {broken[0]})")
    elif shares[worst] > MAX_SHARE:
        findings.add("size", "doubt", f"the update of {worst} is {shares[worst]:.1f} times its weight")
    elif all(share == 0 for share in shares.values()):
        findings.add("effect", "fault", "it changes no weight of this base")
    else:
        findings.add("size", "fine", f"largest update: {shares[worst]:.2%} of its weight's norm ({worst})")
