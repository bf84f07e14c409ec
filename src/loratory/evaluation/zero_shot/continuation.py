"""Free text for lm-eval's generating tasks: our batched generation, cut at the task's stop texts.

Stop texts need not be tokens, so generation goes in rounds: after each one the answers are decoded, and those with a
stop text in them are done.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from loratory.infer.decoding import decode
from loratory.infer.generate import generate
from loratory.infer.sampling import Sampling

ROUND_TOKENS = 64


@dataclass(frozen=True, slots=True)
class GenerationOptions:
    """How one group of requests is answered.

    Attributes:
        stop_texts: An answer ends before the first of these.
        max_new_tokens: Longest answer in tokens.
        sampling: None takes the likeliest token.
    """

    stop_texts: tuple[str, ...]
    max_new_tokens: int
    sampling: Sampling | None


def continue_texts(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    options: GenerationOptions,
    *,
    batch_size: int = 16,
) -> list[str]:
    """Continue prompts until a stop text, a stop token of the tokenizer or model, or the token limit.

    Args:
        model: A causal language model.
        tokenizer: Its tokenizer.
        prompts: Token ids, already short enough for the model's context.
        options: Stop texts, length and sampling.
        batch_size: Rows per forward pass.

    Returns:
        Texts without special tokens, in the order of the prompts, still with whatever follows a stop text.
    """
    stops = sorted({*_ids(tokenizer.eos_token_id), *_ids(getattr(model.generation_config, "eos_token_id", None))})
    answers: list[list[int]] = [[] for _ in prompts]
    # A sampled row's numbers depend on its step, so sampling has one round.
    round_tokens = ROUND_TOKENS if options.sampling is None else options.max_new_tokens
    rows, num_done = list(range(len(prompts))), 0
    while rows and num_done < options.max_new_tokens:
        length = min(round_tokens, options.max_new_tokens - num_done)
        pieces = generate(
            model,
            [[*prompts[row], *answers[row]] for row in rows],
            stop_token_ids=stops,
            max_new_tokens=length,
            batch_size=batch_size,
            sampling=options.sampling,
        )
        for row, piece in zip(rows, pieces, strict=True):
            answers[row].extend(piece)
        num_done += length
        rows = [
            row
            for row, piece in zip(rows, pieces, strict=True)
            if len(piece) == length and not any(stop in decode(tokenizer, answers[row]) for stop in options.stop_texts)
        ]
    return [decode(tokenizer, answer) for answer in answers]


def _ids(value: int | list[int] | None) -> list[int]:
    return [] if value is None else [value] if isinstance(value, int) else list(value)
