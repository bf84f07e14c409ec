"""What an adapter section would train, found on a model without weights.

Law kept: the counts are those of `attach_adapter`, number for number, and its errors come before any weight is read.
"""

import copy
from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from loratory.adapter.attach import attach_adapter
from loratory.adapter.trainable import TrainableReport
from loratory.config import AdapterConfig

READS_WEIGHTS = frozenset({"adamss", "boft", "frod", "shira", "unilora"})
"""Methods that compute with the weights or draw real indices when attached; a random copy of the model stands in."""


def check_adapter(
    section: AdapterConfig, model: PreTrainedModel, *, new_modules: Sequence[str] = ()
) -> TrainableReport:
    """Attach the section to a copy of `model` on the meta device, and count.

    Args:
        section: Method, targets and the rest; an adapter at `section.path` is read for its shapes.
        model: The base on the meta device (`with torch.device("meta")`), left as it is. Quantised weights are
            counted as the weights that they stand for.
        new_modules: `LoadedModel.new_modules` of the model as it would be loaded.

    Raises:
        AdapterError: What `attach_adapter` would refuse.
    """
    assert all(parameter.device.type == "meta" for parameter in model.parameters()), "a model without weights is needed"
    plain = section.model_copy(update={"init": "default"})
    if section.method in READS_WEIGHTS:
        drawn = copy.deepcopy(model).to_empty(device="cpu")
        for parameter in drawn.parameters():
            torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(0))
        return attach_adapter(drawn, plain, seed=0, new_modules=new_modules).report
    with torch.device("meta"):
        return attach_adapter(copy.deepcopy(model), plain, seed=0, new_modules=new_modules).report
