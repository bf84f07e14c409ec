"""What a run leaves of its model: the tensors of a checkpoint and the final model."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from loratory.adapter import save_adapter
from loratory.adapter.stepping import StepHook, adapter_hook
from loratory.engine.optimizer import trainable_parameters
from loratory.engine.state import load_weights, save_weights
from loratory.model.task import task_of
from loratory.model.uneven import write_model
from loratory.run import publish_directory
from loratory.run.commit import storage_faults


@dataclass(frozen=True, slots=True, eq=False)
class ModelArtefacts:
    """Writes and reads the trained part of a model.

    Attributes:
        model: The model in training.
        tokenizer: Its tokenizer.
        base_identity: sha256 of the base's weights.
        template: The template contract, kept beside an adapter.
        beside: Modules trained beside the model (a value head), if the objective has any.
    """

    model: PeftModel | PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    base_identity: str
    template: Mapping[str, object]
    beside: torch.nn.Module | None = None
    hook: StepHook = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "hook", adapter_hook(self.model))

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """Name -> parameter for everything that is trained."""
        return {**trainable_parameters(self.model), **self._parameters_beside()}

    def _parameters_beside(self) -> dict[str, torch.nn.Parameter]:
        own = {} if self.beside is None else trainable_parameters(self.beside)
        return {f"{_BESIDE}.{name}": parameter for name, parameter in own.items()}

    def write_checkpoint(self, folder: Path) -> None:
        """The trained tensors exactly, in a form that other tools load too."""
        if isinstance(self.model, PeftModel):
            save_weights(folder / _ADAPTER_TENSORS, self.parameters())
            if held := self.hook.tensors():
                save_file(held, folder / _HOOK_TENSORS)
            save_adapter(self.model, folder, base_identity=self.base_identity, template=self.template)
            self._write_classes(folder)
        else:
            save_weights(folder / _MODEL_TENSORS, trainable_parameters(self.model))
            self.model.config.save_pretrained(folder)
            self._write_beside(folder)

    def load_checkpoint(self, folder: Path) -> None:
        """Put the tensors of a verified checkpoint into the model.

        Raises:
            IntegrityError: They do not fit.
        """
        name = _ADAPTER_TENSORS if isinstance(self.model, PeftModel) else _MODEL_TENSORS
        if isinstance(self.model, PeftModel):
            load_weights(folder / name, self.parameters())
            if (folder / _HOOK_TENSORS).is_file():
                self.hook.load(load_file(folder / _HOOK_TENSORS))
            return
        load_weights(folder / name, trainable_parameters(self.model))
        if self.beside is not None:
            load_weights(folder / _BESIDE_TENSORS, self._parameters_beside())

    def publish_final(self, target: Path) -> None:
        """Write the result under its final name: whole, or not at all.

        Raises:
            ResourceError: The disk does not take it.
        """
        after = "The last checkpoint is safe: make room and run again with --resume."
        with storage_faults(lambda fault: f"{target}: not written ({fault}). {after}"):
            publish_directory(target, self._write_final)

    def _write_final(self, folder: Path) -> None:
        """The result: a PEFT adapter folder or a standard model folder, with the tokenizer."""
        if isinstance(self.model, PeftModel):
            save_adapter(self.model, folder, base_identity=self.base_identity, template=self.template)
            self._write_classes(folder)
            self.tokenizer.save_pretrained(folder)
        else:
            write_model(self.model, folder, self.tokenizer)
        self._write_beside(folder)

    def _write_classes(self, folder: Path) -> None:
        """Beside an adapter, the configuration that names the classes and the padding token of its head."""
        assert isinstance(self.model, PeftModel)
        base = self.model.get_base_model()
        if task_of(base) == "seq_cls":
            base.config.save_pretrained(folder)

    def _write_beside(self, folder: Path) -> None:
        if self.beside is not None:
            save_weights(folder / _BESIDE_TENSORS, self._parameters_beside())


_HOOK_TENSORS = "adapter_steps.safetensors"
_BESIDE = "beside"
_BESIDE_TENSORS = "beside.safetensors"
_ADAPTER_TENSORS = "trainable.safetensors"
_MODEL_TENSORS = "model.safetensors"
