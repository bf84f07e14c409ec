"""Write a model as `pruned_model.bin`: `torch.save({'model': model, 'tokenizer': tokenizer})`, for who expects it.

Whoever opens such a file with `torch.load(weights_only=False)` runs what is in it; our own safe reader does not. The
file names only classes of torch, transformers and tokenizers, so it opens where loratory is not installed.
"""

from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from loratory.errors import IntegrityError, ModelError, RunError
from loratory.model.pickled import read_pickled
from loratory.model.uneven import shapes_of
from loratory.run.commit import fsync_directory, seal
from loratory.run.stage import staging

ATTENTION = ("sdpa", "eager")


def write_pickled(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, path: Path, *, overwrite: bool = False
) -> None:
    """Write the file, read it back with the safe reader, and publish it under its name only if all weights are equal.

    Args:
        model: A stock model, even or uneven, merged: no adapter layers.
        tokenizer: Its tokenizer.
        path: The file; its folder is created.
        overwrite: Replace an existing file.

    Raises:
        ModelError: The model is not one that stock transformers can open.
        RunError: The file exists.
        IntegrityError: What was written does not read back equal.
    """
    _check_stock(model)
    if path.exists() and not overwrite:
        raise RunError(f"{path} exists already; choose another output")
    path.parent.mkdir(parents=True, exist_ok=True)
    with staging(path.parent) as stage:
        file = stage / path.name
        torch.save({"model": model, "tokenizer": tokenizer}, file)
        _check_equal(model, file)
        seal(stage)
        file.replace(path)
        fsync_directory(path.parent)


def _check_stock(model: PreTrainedModel) -> None:
    shapes_of(model)
    foreign = {
        f"{name or 'the model'} ({type(module).__module__}.{type(module).__name__})"
        for name, module in model.named_modules()
        if not type(module).__module__.startswith(("transformers.", "torch."))
    }
    if foreign:
        raise ModelError(
            f"{sorted(foreign)[0]} and {len(foreign) - 1} more parts are no classes of transformers or torch; merge "
            "the adapter first, and load the base unquantised"
        )
    if model.config._attn_implementation not in ATTENTION:
        raise ModelError(
            f"the model computes attention by {model.config._attn_implementation!r}, which others do not have; "
            f"load it anew (allowed are {', '.join(ATTENTION)})"
        )
    if any(isinstance(module, nn.Module) and module._forward_hooks for module in model.modules()):
        raise ModelError("the model carries hooks, which would be pickled with it; load it anew")


def _check_equal(model: PreTrainedModel, path: Path) -> None:
    with read_pickled(path, path.parent) as found:
        for name, value in model.state_dict().items():
            if name not in found.tensors or not torch.equal(found.tensors[name], value.cpu()):
                raise IntegrityError(f"{name} does not read back as it was written; nothing was published")
