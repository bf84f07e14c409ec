"""A base and adapters of it, of which one at a time is in place: modules are exchanged, never weights.

So the base is bit-exact whatever was used before, and an adapter may be of any method that puts modules of its own
into the model.
"""

from collections.abc import Iterator
from pathlib import Path

from torch import nn
from transformers import PreTrainedModel

from loratory.adapter.load import load_adapter
from loratory.errors import AdapterError

_Place = tuple[nn.Module, str]


class Variants:
    """The base is variant 0; adapters are 1, 2, … in the order in which they were added.

    Args:
        base: The model; its modules are exchanged in place.
        identity: Identity of its weights, which adapters are checked against.
    """

    def __init__(self, base: PreTrainedModel, identity: str) -> None:
        self.base = base
        self._identity = identity
        self._plain = dict(_children(base))
        self._exchanged: list[dict[_Place, nn.Module]] = [{}]
        self._current = 0

    def __len__(self) -> int:
        return len(self._exchanged)

    def add(self, folder: Path) -> int:
        """Load an adapter; the variant in place stays.

        Returns:
            Its number.

        Raises:
            AdapterError, UnsafeError, IntegrityError: As `load_adapter`; or it changes weights of the base itself.
        """
        current = self._current
        self.use(0)
        # A changed tensor counts its changes, whoever made them.
        versions = [(parameter, parameter._version) for parameter in self.base.parameters()]
        adapted = load_adapter(self.base, folder, trainable=False, base_identity=self._identity)
        found = {place: child for place, child in _children(self.base) if place in self._plain}
        exchanged = {place: child for place, child in found.items() if child is not self._plain[place]}
        self._put(self._plain)
        is_changed = any(parameter._version != version for parameter, version in versions)
        if is_changed or adapted.active_peft_config.is_prompt_learning:
            raise AdapterError(
                f"adapter {folder} changes more than modules of its own (biases of the base, or the prompt), so it "
                "cannot be served beside others; merge it into its base and serve the merged model"
            )
        if hasattr(self.base, "peft_config"):
            del self.base.peft_config
        self._exchanged.append(exchanged)
        self.use(current)
        return len(self._exchanged) - 1

    def use(self, variant: int) -> None:
        """Put a variant in place."""
        if variant != self._current:
            self._put({place: self._plain[place] for place in self._exchanged[self._current]})
            self._put(self._exchanged[variant])
            self._current = variant

    def exchanged_names(self, variant: int) -> set[str]:
        """Names, in their parents, of the modules that a variant exchanges."""
        return {name for _, name in self._exchanged[variant]}

    @staticmethod
    def _put(modules: dict[_Place, nn.Module]) -> None:
        for (parent, name), child in modules.items():
            parent._modules[name] = child


def _children(model: nn.Module) -> Iterator[tuple[_Place, nn.Module]]:
    for parent in model.modules():
        for name, child in parent._modules.items():
            if child is not None:
                yield (parent, name), child
