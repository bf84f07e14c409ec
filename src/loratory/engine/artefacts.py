"""What a run leaves of its model: the tensors of a checkpoint and the final model."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from loratory.adapter import save_adapter
from loratory.engine.optimizer import trainable_parameters
from loratory.engine.state import load_weights, save_weights


@dataclass(frozen=True, slots=True, eq=False)
class ModelArtefacts:
    """Writes and reads the trained part of a model.

    Attributes:
        model: The model in training.
        tokenizer: Its tokenizer.
        base_identity: sha256 of the base's weights.
        template: The template contract, kept beside an adapter.
    """

    model: PeftModel | PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    base_identity: str
    template: Mapping[str, object]

    def write_checkpoint(self, folder: Path) -> None:
        """The trained tensors exactly, in a form that other tools load too."""
        if isinstance(self.model, PeftModel):
            save_weights(folder / _ADAPTER_TENSORS, trainable_parameters(self.model))
            save_adapter(self.model, folder, base_identity=self.base_identity, template=self.template)
        else:
            save_weights(folder / _MODEL_TENSORS, trainable_parameters(self.model))
            self.model.config.save_pretrained(folder)

    def load_checkpoint(self, folder: Path) -> None:
        """Put the tensors of a verified checkpoint into the model.

        Raises:
            IntegrityError: They do not fit.
        """
        name = _ADAPTER_TENSORS if isinstance(self.model, PeftModel) else _MODEL_TENSORS
        load_weights(folder / name, trainable_parameters(self.model))

    def write_final(self, folder: Path) -> None:
        """The result: a PEFT adapter folder or a standard model folder, with the tokenizer."""
        if isinstance(self.model, PeftModel):
            save_adapter(self.model, folder, base_identity=self.base_identity, template=self.template)
        else:
            self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


_ADAPTER_TENSORS = "trainable.safetensors"
_MODEL_TENSORS = "model.safetensors"
