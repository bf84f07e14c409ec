"""Cutting a text into windows: which tokens are seen together and which of them are scored, each once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from transformers import PreTrainedTokenizerBase

from loratory.data.sequence import TokenSequence
from loratory.errors import ConfigError, DataError

Opening = Literal["no", "text", "window"]


@dataclass(frozen=True, slots=True)
class Windowing:
    """How a text is cut.

    Attributes:
        window: Tokens that the model sees at once.
        stride: Tokens from one window's begin to the next; below `window`, windows overlap and a token counts in the
            first window that holds it.
        bos: Where the tokenizer's begin token stands: nowhere, before the text, or before each window.
    """

    window: int
    stride: int
    bos: Opening

    def __post_init__(self) -> None:
        faults = []
        if self.window < 2:
            faults.append(f"evaluation.perplexity_window: got {self.window}; a window needs at least 2 tokens")
        if not 1 <= self.stride <= self.window:
            faults.append(
                f"evaluation.perplexity_stride: got {self.stride}; allowed are 1 to the window's {self.window} tokens"
            )
        if faults:
            raise ConfigError(faults)


def opening_token(tokenizer: PreTrainedTokenizerBase, wanted: Literal["auto", "no", "text", "window"]) -> Opening:
    """Where the begin token will stand; `auto` puts it before the text when the tokenizer does so by itself.

    Raises:
        ConfigError: It is asked for and the tokenizer has none.
    """
    has_bos = tokenizer.bos_token_id is not None
    if wanted == "auto":
        begins = has_bos and list(tokenizer("").input_ids)[:1] == [tokenizer.bos_token_id]
        return "text" if begins else "no"
    if wanted != "no" and not has_bos:
        raise ConfigError(f"evaluation.perplexity_bos: '{wanted}' needs a tokenizer with a begin token; use 'no'")
    return wanted


def cut(token_ids: Sequence[int], windowing: Windowing, *, bos_token_id: int | None = None) -> list[TokenSequence]:
    """Cut a text's tokens into windows; every token is scored at most once, the first of all never.

    A text shorter than a window is one window; otherwise tokens behind the last whole window are dropped.

    Args:
        token_ids: The text without a begin token.
        windowing: How.
        bos_token_id: The begin token; used when `windowing.bos` is not "no".

    Raises:
        DataError: Fewer than 2 tokens, so nothing can be scored.
    """
    prefix = [] if windowing.bos != "window" else [bos_token_id]
    stream = np.asarray([bos_token_id, *token_ids] if windowing.bos == "text" else token_ids, dtype=np.int64)
    width = windowing.window - len(prefix)
    stride = min(windowing.stride, width)
    if len(stream) + len(prefix) < 2:
        raise DataError(f"the text has {len(token_ids)} tokens; at least 2 are needed to score one")
    begins = range(0, max(len(stream) - width, 0) + 1, stride)
    windows = []
    for number, begin in enumerate(begins):
        ids = np.concatenate([np.asarray(prefix, dtype=np.int64), stream[begin : begin + width]])
        weights = np.zeros(len(ids), dtype=np.float32)
        # A whole first window; of the others what no window held before, and never a window's first token.
        num_new = len(ids) - len(prefix) if number == 0 else stride
        weights[max(len(ids) - num_new, 1) :] = 1.0
        windows.append(TokenSequence(ids, weights, len(prefix)))
    return windows
