"""A merge that was measured and is not yet written: what the streamed merge and the one in memory have in common."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import GenerationConfig, PreTrainedTokenizerBase

from loratory.adapter.certificate import ROUNDING_WARNING, BaseChoice, Measurement
from loratory.adapter.files import AdapterFiles
from loratory.errors import AdapterError


@dataclass(frozen=True, slots=True)
class Written:
    """What writing found out.

    Attributes:
        rounding_loss: Per changed tensor ||W' - W - dW|| / ||dW||, W' being the weight as stored.
        is_untied: Whether embeddings that the base shares had to be separated.
    """

    rounding_loss: dict[str, float]
    is_untied: bool


@dataclass(frozen=True, slots=True, eq=False)
class PreparedMerge:
    """A merge ready to be written.

    Attributes:
        source: The base as a user names it.
        identity: Its identity.
        method: "streamed" or "in memory".
        tokenizer: Saved beside the weights.
        dtype: Format of the merged weights, by name.
        prompts: Token ids of the probe prompts.
        reference: Logits of the adapter on its base, that the merged model must give.
        effect: The bare base against the reference.
        num_bytes: Size of the merged weights.
        notes: What a reader of the certificate must know.
        base_choice: Which form of a quantised base was chosen, and why.
        write: Fills a folder with config, weights and tokenizer.
    """

    source: str
    identity: str
    method: str
    tokenizer: PreTrainedTokenizerBase
    dtype: str
    prompts: list[list[int]]
    reference: list[torch.Tensor]
    effect: Measurement
    num_bytes: int
    notes: tuple[str, ...]
    base_choice: BaseChoice | None
    write: Callable[[Path], Written]


def nothing_to_merge(files: AdapterFiles) -> AdapterError:
    """The error for an adapter that changes nothing."""
    return AdapterError(
        f"adapter {files.path} does nothing: the base answers the same without it (it was saved untrained, or "
        "its B matrices are zero). There is nothing to merge"
    )


def rounding_notes(written: Written) -> tuple[str, ...]:
    """What is to be told about updates lost to the format, and about separated embeddings."""
    notes = []
    losses = written.rounding_loss
    lossy = [name for name, loss in losses.items() if loss > ROUNDING_WARNING]
    if lossy:
        worst = max(lossy, key=lambda name: losses[name])
        notes.append(
            f"rounding lost more than {ROUNDING_WARNING:.0%} of the update in {len(lossy)} of {len(losses)} "
            f"tensors (worst {worst}: {losses[worst]:.0%}); float32 output or the separate adapter keeps it"
        )
    if written.is_untied:
        notes.append("input and output embeddings are no longer shared: the adapter changed them differently")
    return tuple(notes)


def stop_at_template(generation: GenerationConfig, files: AdapterFiles) -> None:
    """Make generation stop at the template's stop tokens, too."""
    contract = files.manifest.template if files.manifest is not None else None
    stops: Sequence[int] = contract.get("stop_token_ids", []) if contract else []
    if stops:
        known = generation.eos_token_id
        known = [] if known is None else known if isinstance(known, list) else [known]
        generation.eos_token_id = [*known, *(stop for stop in stops if stop not in known)]
