"""How a pruned model is left: an uneven folder with `pruning.json`, or the documented `pruned_model.bin`."""

from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from loratory.model.pickle_file import write_pickled
from loratory.model.save import PICKLE_NAME
from loratory.model.uneven import shapes_of, write_uneven
from loratory.run.commit import publish_directory, write_text

RECORD_NAME = "pruning.json"
_PICKLE_SUFFIXES = (".bin", ".pt", ".pth")


def save_pruned(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, output: Path, *, record: str, is_pickle: bool
) -> Path:
    """Write a pruned model, whole or not at all.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        output: A folder; for a pickle a file, or a folder that gets `pruned_model.bin`.
        record: What was done, as JSON; stands in the folder, not in a pickle.
        is_pickle: Which of the two.

    Returns:
        The folder or file.

    Raises:
        RunError: The output exists.
    """
    if is_pickle:
        path = output if output.suffix in _PICKLE_SUFFIXES else output / PICKLE_NAME
        write_pickled(model, tokenizer, path)
        return path

    def write(stage: Path) -> None:
        write_uneven(model, stage, tokenizer, shapes_of(model))
        write_text(stage / RECORD_NAME, record + "\n")

    publish_directory(output, write)
    return output
