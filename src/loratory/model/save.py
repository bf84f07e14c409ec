"""Save a model in another form: uneven folder, padded stock folder, or `pruned_model.bin`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from loratory.config import ModelConfig
from loratory.errors import ConfigError
from loratory.model.facts import describe_model
from loratory.model.load import load_model
from loratory.model.padded import check_padding, pad_to_stock
from loratory.model.pickle_file import write_pickled
from loratory.model.precision import DTYPES
from loratory.model.uneven import save_uneven, shapes_of
from loratory.run.commit import publish_directory

SaveFormat = Literal["uneven", "padded", "pickle"]
SaveDtype = Literal["auto", "float32", "float16", "bfloat16"]
FORMATS: tuple[SaveFormat, ...] = ("uneven", "padded", "pickle")
PICKLE_NAME = "pruned_model.bin"


@dataclass(frozen=True, slots=True)
class SavedModel:
    """What was written.

    Attributes:
        path: Folder or file.
        parameters: Number of weights in it; shared ones count once.
        parameters_before: The same of the model read.
        logit_difference: Padded only: largest difference of logits on the fixed prompt, in float32.
    """

    path: Path
    parameters: int
    parameters_before: int
    logit_difference: float | None


def save_model_as(
    section: ModelConfig,
    output: Path,
    *,
    format: SaveFormat = "uneven",
    dtype: SaveDtype = "auto",
    overwrite: bool = False,
) -> SavedModel:
    """Load a model and write it in another form; published whole or not at all.

    Args:
        section: The model; read in float32.
        output: A folder; for `pickle` a file, or a folder that gets `pruned_model.bin`.
        format: Form of the output.
        dtype: Format of the weights; auto as in the source's files.
        overwrite: `pickle` only: replace an existing file.

    Raises:
        ConfigError: An unknown format.
        ModelError: The model's family has no such form.
        IntegrityError: The written form does not answer as the model does.
        RunError: The output exists.
    """
    if format not in FORMATS:
        raise ConfigError(f"format: got {format!r}; allowed: {', '.join(FORMATS)}")
    facts = describe_model(section)
    stored = facts.dtype if dtype == "auto" else dtype
    loaded = load_model(section.model_copy(update={"dtype": "float32"}), device="cpu")
    model, chosen = loaded.model, DTYPES.get(str(stored), torch.float32)
    before = model.num_parameters()
    shapes_of(model)
    difference = None
    if format == "padded":
        padded = pad_to_stock(model)
        difference = check_padding(model, padded)
        model = padded
    model.to(chosen)
    model.config.dtype = chosen
    if format == "pickle":
        path = output if output.suffix in (".bin", ".pt", ".pth") else output / PICKLE_NAME
        write_pickled(model, loaded.tokenizer, path, overwrite=overwrite)
    elif format == "padded":
        path = output

        def write(stage: Path) -> None:
            model.save_pretrained(stage)
            loaded.tokenizer.save_pretrained(stage)

        publish_directory(path, write)
    else:
        path = output
        save_uneven(model, path, loaded.tokenizer, layers_kept=facts.shapes.layers_kept if facts.shapes else None)
    return SavedModel(path, model.num_parameters(), before, difference)
