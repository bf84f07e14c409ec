"""Counting what an adapter trains, and refusing a targeted layer that trains nothing."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from loratory.errors import AdapterError


@dataclass(frozen=True, slots=True)
class TargetCount:
    """What one group of layers trains.

    Attributes:
        name: Leaf name of the layers, such as `q_proj`.
        num_layers: How many layers of that name train something.
        num_parameters: Trainable numbers in them.
    """

    name: str
    num_layers: int
    num_parameters: int


@dataclass(frozen=True, slots=True)
class TrainableReport:
    """How much of a model is trained.

    Attributes:
        trainable: Trainable numbers.
        total: All numbers, the adapter's included; a 4-bit weight counts as the weight it stands for.
        targets: By leaf name, in the model's order.
    """

    trainable: int
    total: int
    targets: tuple[TargetCount, ...]

    @property
    def share(self) -> float:
        """Trainable share, 0 to 1."""
        return self.trainable / self.total

    def describe(self) -> str:
        """One line for people."""
        layers = ", ".join(f"{target.name} x{target.num_layers}" for target in self.targets)
        return f"trainable {self.trainable:,} of {self.total:,} ({self.share:.2%}): {layers}"


def count_trainable(model: nn.Module, targeted: Sequence[str]) -> TrainableReport:
    """Count parameters, and check that each targeted module trains something.

    Args:
        model: The model after the adapter was attached.
        targeted: Full names of the targeted modules in `model`.

    Raises:
        AdapterError: A targeted module with no trainable number, or nothing trainable at all.
    """
    trainable = total = 0
    for parameter in model.parameters():
        count = num_elements(parameter)
        total += count
        trainable += count if parameter.requires_grad else 0
    groups: dict[str, list[int]] = {}
    empty: list[str] = []
    for name in targeted:
        count = sum(num_elements(p) for p in model.get_submodule(name).parameters() if p.requires_grad)
        if count == 0:
            empty.append(name)
        groups.setdefault(name.rsplit(".", 1)[-1], []).append(count)
    if empty:
        raise AdapterError(
            f"{len(empty)} targeted layers would train nothing (first: {', '.join(empty[:3])}); "
            "take them out of adapter.targets or choose another rank"
        )
    if trainable == 0:
        raise AdapterError("nothing would be trained: the model has no trainable parameter")
    counts = tuple(TargetCount(leaf, len(sizes), sum(sizes)) for leaf, sizes in groups.items())
    return TrainableReport(trainable=trainable, total=total, targets=counts)


def num_elements(parameter: nn.Parameter) -> int:
    """Numbers that a parameter stands for; bitsandbytes packs two 4-bit numbers into a byte."""
    state = getattr(parameter, "quant_state", None)
    shape = getattr(state, "shape", None)
    if shape is None:
        return parameter.numel()
    count = 1
    for size in shape:
        count *= size
    return count
