"""Perplexity of texts and of rows: log-likelihoods by the tree engine, which never holds the logits of a batch.

Not a loss in training. Law: each scored token counts once; the definition names every choice that moves the number.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from loratory.data.sequence import TokenSequence
from loratory.errors import DataError, NumericsError
from loratory.evaluation.bootstrap import bootstrap_interval
from loratory.evaluation.corpus import Corpus
from loratory.evaluation.measure import Measure
from loratory.evaluation.windows import Windowing, cut
from loratory.infer.generate import context_length
from loratory.tree.build import build_tree
from loratory.tree.scorer import Scorer
from loratory.tree.scorers import make_scorer

PASS_TOKENS = 4096
_TWIN_LOGIT_BYTES = 256 << 20
_LN2 = math.log(2.0)


@dataclass(frozen=True, slots=True, eq=False)
class Likelihoods:
    """What the model makes of each sequence.

    Attributes:
        nll_S: Negative log-likelihood of the scored tokens of each sequence, nats, float64.
        num_scored_S: How many tokens were scored in each sequence.
    """

    nll_S: npt.NDArray[np.float64]
    num_scored_S: npt.NDArray[np.int64]


def likelihoods(
    model: PreTrainedModel | PeftModel,
    sequences: Sequence[TokenSequence],
    *,
    pass_tokens: int = PASS_TOKENS,
    scorer: Scorer | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> Likelihoods:
    """Score the weighted tokens of sequences.

    Args:
        model: A causal language model in eval mode, with or without an adapter.
        sequences: Tokens; those with a weight are scored, whatever the weight.
        pass_tokens: Tokens of one forward pass; a longer sequence goes alone.
        scorer: How to compute; default the fastest exact one for the model.
        on_progress: Called with the number of sequences done.

    Raises:
        DataError: A sequence is longer than the model's context.
        NumericsError: A likelihood is not finite.
    """
    limit = context_length(model)
    longest = max(map(len, sequences), default=0)
    if limit is not None and longest > limit:
        raise DataError(
            f"{sum(len(s) > limit for s in sequences)} of {len(sequences)} sequences are longer than the model's "
            f"context of {limit} tokens (the longest has {longest}); use a smaller window or shorter rows"
        )
    chosen = make_scorer(model) if scorer is None else scorer
    if chosen.path == "padded":
        pass_tokens = min(pass_tokens, _TWIN_LOGIT_BYTES // (4 * model.config.get_text_config().vocab_size))
    sums, num_done = [], 0
    with torch.no_grad():
        for group in _passes(sequences, pass_tokens):
            tree = build_tree([_unweighted(sequence) for sequence in group])
            logprobs_N = chosen.logprobs(tree).double().cpu()
            sums.append(-tree.sum_by_sequence(logprobs_N).numpy())
            num_done += len(group)
            if on_progress is not None:
                on_progress(num_done)
    nll_S = np.concatenate(sums)
    if not np.isfinite(nll_S).all():
        raise NumericsError(
            f"{int((~np.isfinite(nll_S)).sum())} of {len(nll_S)} log-likelihoods are not finite: the model computes "
            "NaN or infinity. Load it in float32 (model.dtype=float32), and check that it is not damaged"
        )
    return Likelihoods(nll_S, np.array([sequence.num_supervised for sequence in sequences], dtype=np.int64))


def text_perplexity(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    corpus: Corpus,
    *,
    windowing: Windowing,
    limit: int | None = None,
    pass_tokens: int = PASS_TOKENS,
    scorer: Scorer | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Measure]:
    """Token-level perplexity of a text, bits per token and bits per byte, with bootstrap intervals over windows.

    With window 128, stride 128 and a row join of a blank line this is the PPL of LLM-Pruner (evaluator/ppl.py); with
    window 2048 the one usual for WikiText-2. With a smaller stride it is the sliding window of the transformers
    documentation ("Perplexity of fixed-length models"), each token scored once.

    Args:
        model: The model, in eval mode.
        tokenizer: Its tokenizer.
        corpus: The text.
        windowing: Window, stride and begin token.
        limit: Only the first n windows.
        pass_tokens: Tokens of one forward pass.
        scorer: How to compute; default the fastest exact one for the model.
        on_progress: Called with windows done and windows in all.

    Raises:
        DataError: The text is too short, or a window longer than the model's context.
        NumericsError: A likelihood is not finite.
    """
    token_ids = _tokenise(tokenizer, corpus.text)
    all_windows = cut(token_ids, windowing, bos_token_id=tokenizer.bos_token_id)
    windows = all_windows[:limit]
    found = likelihoods(
        model,
        windows,
        pass_tokens=pass_tokens,
        scorer=scorer,
        on_progress=None if on_progress is None else lambda done: on_progress(done, len(windows)),
    )
    first = f",first={len(windows)}" if len(windows) < len(all_windows) else ""
    choices = f"window={windowing.window},stride={windowing.stride},join={_shown(corpus.join)},bos={windowing.bos}"
    mean, low, high = _mean_nll(found)
    scored = f"{int(found.num_scored_S.sum())} of {len(token_ids)} tokens in {len(windows)} windows"

    def measure(name: str, scale: Callable[[float], float], unit: str, words: str) -> Measure:
        return Measure(
            name=f"{name}@{choices}{first}",
            on=corpus.name,
            value=scale(mean),
            unit=unit,
            n=len(windows),
            n_of="windows",
            low=scale(low),
            high=scale(high),
            interval="95 % bootstrap over windows",
            definition=f"{words}; {scored}, tokens behind the last whole window dropped",
        )

    tokens_per_byte = len(token_ids) / corpus.num_bytes
    return [
        measure("perplexity", math.exp, "per token", "exp of the mean negative log-likelihood of the scored tokens"),
        measure("bits_per_token", lambda nats: nats / _LN2, "bits", "mean negative log2-likelihood per scored token"),
        measure(
            "bits_per_byte",
            lambda nats: nats / _LN2 * tokens_per_byte,
            "bits",
            f"bits per token times the {tokens_per_byte:.4f} tokens per UTF-8 byte of the whole text",
        ),
    ]


def row_perplexity(
    model: PreTrainedModel | PeftModel,
    sequences: Sequence[TokenSequence],
    *,
    on: str,
    template: str,
    pass_tokens: int = PASS_TOKENS,
    scorer: Scorer | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> list[Measure]:
    """Perplexity of rows' answers: over all their tokens, and as the mean over rows of each row's own.

    Args:
        model: The model, in eval mode.
        sequences: Rows under their template; weighted tokens are scored.
        on: What the rows are called.
        template: The template's name, part of the definition.
        pass_tokens: Tokens of one forward pass.
        scorer: How to compute; default the fastest exact one for the model.
        on_progress: Called with the number of rows done.

    Raises:
        DataError: There are no rows, or one is longer than the model's context.
        NumericsError: A likelihood is not finite.
    """
    if not sequences:
        raise DataError(f"{on}: there are no rows to score; at least one is needed")
    found = likelihoods(model, sequences, pass_tokens=pass_tokens, scorer=scorer, on_progress=on_progress)
    mean, low, high = _mean_nll(found)
    own_S = np.exp(found.nll_S / found.num_scored_S)
    own_low, own_high = bootstrap_interval(own_S)
    choices = f"rows,scored=answer,template={template}"
    interval = "95 % bootstrap over rows"
    num_rows, num_tokens = len(sequences), int(found.num_scored_S.sum())
    return [
        Measure(
            name=f"perplexity@{choices}", on=on, value=math.exp(mean), unit="per token", n=num_rows, n_of="rows",
            low=math.exp(low), high=math.exp(high), interval=interval,
            definition=f"exp of the mean negative log-likelihood over all {num_tokens} answer tokens, stop token too",
        ),
        Measure(
            name=f"perplexity_sample_mean@{choices}", on=on, value=float(own_S.mean()), unit="per token", n=num_rows,
            n_of="rows", low=own_low, high=own_high, interval=interval,
            definition="mean over rows of exp(mean negative log-likelihood of the row's answer tokens)",
        ),
    ]  # fmt: skip


def _mean_nll(found: Likelihoods) -> tuple[float, float, float]:
    """Nats per scored token and its interval; sequences are resampled whole, their tokens counted."""
    mean = float(found.nll_S.sum() / found.num_scored_S.sum())
    low, high = bootstrap_interval(found.nll_S / found.num_scored_S, weights_N=found.num_scored_S.astype(np.float64))
    return mean, low, high


def _passes(sequences: Sequence[TokenSequence], pass_tokens: int) -> Iterator[list[TokenSequence]]:
    group: list[TokenSequence] = []
    num_tokens = 0
    for sequence in sequences:
        if group and num_tokens + len(sequence) > pass_tokens:
            yield group
            group, num_tokens = [], 0
        group.append(sequence)
        num_tokens += len(sequence)
    if group:
        yield group


def _unweighted(sequence: TokenSequence) -> TokenSequence:
    """The same tokens scored, each with weight 1."""
    return TokenSequence(sequence.token_ids, (sequence.weights != 0).astype(np.float32), sequence.prompt_length)


def _tokenise(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    # verbose=False: the text is longer than the context on purpose.
    return list(tokenizer(text, add_special_tokens=False, verbose=False).input_ids)


def _shown(join: str | None) -> str:
    return "none" if join is None else join.encode("unicode_escape").decode()
