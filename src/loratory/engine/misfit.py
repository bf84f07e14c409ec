"""Faults of a configuration against its base model, found before rows are tokenised and weights are read."""

import torch

from loratory.adapter.check import check_adapter, needs_weights
from loratory.adapter.trainable import TrainableReport
from loratory.config import RunConfig
from loratory.model.empty_model import empty_model, is_known_family
from loratory.model.task import ClassHead


def refuse_misfit(config: RunConfig, *, head: ClassHead | None) -> TrainableReport | None:
    """Attach the adapter to the base's layers without their weights.

    Args:
        config: The whole run.
        head: The classification head that the objective needs, with or without its labels.

    Returns:
        What would be trained; None where only the weights or the repository's own code can tell.

    Raises:
        AdapterError: Targets that match nothing, ranks or blocks that do not divide a layer, options that contradict
            each other, a method that cannot be trained on this kind of model or on a quantised base.
        ModelError: The base is missing, or its config describes no model.
    """
    if not is_known_family(config.model):
        return None
    model = empty_model(config.model, device=torch.device("cpu"), head=head).model
    if needs_weights(config.adapter.method, model):
        return None
    return check_adapter(config.adapter, model, quantization=config.quantization)
