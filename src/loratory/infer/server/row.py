"""One answer on its way: how its tokens are chosen, what text they make, and why it ends."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from transformers import PreTrainedTokenizerBase

from loratory.infer.decoding import TextStream, decode
from loratory.infer.sampling import Sampling, row_uniforms
from loratory.infer.server.stop_text import StopText

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token of an answer and the likeliest ones in its place, with log-probabilities in nats."""

    text: str
    logprob: float
    top: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class Piece:
    """What one pass added to an answer.

    Attributes:
        text: New text, often empty.
        num_tokens: Tokens of the answer so far, a stop token included.
        logprobs: Of the new token, when asked for.
        finish_reason: Why the answer ends here, or None.
        error: The server failed; the answer ends here.
    """

    text: str
    num_tokens: int
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason | None = None
    error: bool = False


@dataclass(frozen=True, slots=True)
class RowRequest:
    """What is asked of one row.

    Attributes:
        variant: Which adapter, or 0 for the base.
        prompt: Token ids.
        max_new_tokens: Longest answer.
        stop_token_ids: Tokens that end it.
        stop_strings: Strings that end it.
        sampling: How tokens are drawn; None takes the likeliest.
        draw_number: With the sampling's seed it fixes the draws.
        num_logprobs: How many alternatives to report beside each token; None reports nothing.
    """

    variant: int
    prompt: Sequence[int]
    max_new_tokens: int
    stop_token_ids: frozenset[int]
    stop_strings: tuple[str, ...] = ()
    sampling: Sampling | None = None
    draw_number: int = 0
    num_logprobs: int | None = None


class Row:
    """A row in the engine.

    Args:
        request: What is asked.
        tokenizer: Turns tokens into text; used by the engine's thread only.
        sink: Called from the engine's thread with each piece.

    Attributes:
        is_cancelled: Set from any thread: nobody waits for the answer any more.
    """

    def __init__(self, request: RowRequest, tokenizer: PreTrainedTokenizerBase, sink: Callable[[Piece], None]) -> None:
        self.request = request
        self.sink = sink
        self.is_cancelled = False
        self.num_tokens = 0
        self._tokenizer = tokenizer
        self._text = TextStream(tokenizer)
        self._stop = StopText(request.stop_strings)
        sampling = request.sampling
        self._uniforms = (
            None if sampling is None else row_uniforms(sampling.seed, request.draw_number, request.max_new_tokens)
        )

    @property
    def uniform(self) -> torch.Tensor:
        """The random number of the token that comes next."""
        assert self._uniforms is not None
        return self._uniforms[self.num_tokens]

    def accept(self, token: int, logits_V: torch.Tensor) -> bool:
        """Take the next token and pass on what it adds; True when the answer goes on."""
        self.num_tokens += 1
        request = self.request
        reason: FinishReason | None = None
        logprobs: tuple[TokenLogprob, ...] = ()
        if token in request.stop_token_ids:
            text, reason = self._stop.push(self._text.flush()), "stop"
        else:
            if request.num_logprobs is not None:
                logprobs = (self._logprob(token, logits_V, request.num_logprobs),)
            text = self._stop.push(self._text.push(token))
            if self.num_tokens == request.max_new_tokens and not self._stop.is_stopped:
                text, reason = text + self._stop.push(self._text.flush()), "length"
        if self._stop.is_stopped:
            reason = "stop"
        elif reason is not None:
            text += self._stop.flush()
        self.sink(Piece(text, self.num_tokens, logprobs, reason))
        return reason is None

    def _logprob(self, token: int, logits_V: torch.Tensor, num_top: int) -> TokenLogprob:
        logprobs_V = logits_V.float().log_softmax(dim=-1)
        top = logprobs_V.topk(num_top)
        texts = [self._text_of(other) for other in top.indices.tolist()]
        alternatives = tuple(zip(texts, top.values.tolist(), strict=True))
        return TokenLogprob(self._text_of(token), float(logprobs_V[token]), alternatives)

    def _text_of(self, token: int) -> str:
        return decode(self._tokenizer, [token], skip_special_tokens=False)
