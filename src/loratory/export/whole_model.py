"""What is exported, as one model in float32: a folder as it is, an adapter merged first, an uneven model padded."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from loratory.adapter.merge import merge_adapter
from loratory.config import ModelConfig
from loratory.model import load_model
from loratory.model.padded import check_padding, pad_to_stock
from loratory.model.shapes import read_shapes
from loratory.model.source import locate_model
from loratory.run.stage import staging


@dataclass(frozen=True, slots=True, eq=False)
class WholeModel:
    """A model without adapter, in float32.

    Attributes:
        model: The model.
        tokenizer: Its tokenizer.
        notes: What was done to it on the way.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    notes: tuple[str, ...]


@contextmanager
def whole_model(
    base: ModelConfig,
    adapter_dir: Path | None,
    *,
    workdir: Path,
    force_template: bool = False,
    trust_remote_code: bool = False,
) -> Iterator[WholeModel]:
    """Open what is to be exported.

    Args:
        base: The model, or the adapter's base.
        adapter_dir: An adapter to merge first; the merge is certified as any other.
        workdir: Folder in which the merged weights lie meanwhile.
        force_template: Merge although the tokenizer is not the one of training.
        trust_remote_code: Run code from the model's own repository.

    Raises:
        ModelError, AdapterError, IntegrityError: As for `load_model` and `merge_adapter`.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    with staging(workdir) as stage:
        notes: list[str] = []
        section = base.model_copy(update={"dtype": "float32"})
        if adapter_dir is not None:
            merged = stage / "merged"
            certificate = merge_adapter(
                base,
                adapter_dir,
                merged,
                dtype="float32",
                force_template=force_template,
                trust_remote_code=trust_remote_code,
            )
            notes += [
                "the adapter was merged first: largest |logit difference| "
                f"{certificate.measured.max_logit_difference:.3g} over {certificate.measured.num_positions} positions",
                *certificate.notes,
            ]
            section = ModelConfig(model_name_or_path=str(merged), dtype="float32")
        source = locate_model(section)
        is_uneven = source.is_local and source.gguf_file is None and read_shapes(Path(source.name)) is not None
        loaded = load_model(section, trust_remote_code=trust_remote_code)
        model = loaded.model
        if is_uneven:
            model = pad_to_stock(loaded.model)
            difference = check_padding(loaded.model, model)
            notes.append(f"layers of unequal width were padded with zeros: logits differ by {difference:.3g} at most")
        yield WholeModel(model, loaded.tokenizer, tuple(notes))
