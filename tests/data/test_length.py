"""The length limit: counted, and the answer's end is never lost."""

import numpy as np
import pytest

from loratory.data.length import fit_length
from loratory.data.records import Origin
from loratory.data.sequence import TokenSequence
from loratory.errors import DataError


def sequence(prompt: int, answer: int, *, start: int = 0) -> TokenSequence:
    ids = np.arange(start, start + prompt + answer)
    return TokenSequence(ids, np.array([0.0] * prompt + [1.0] * answer, dtype=np.float32), prompt)


ORIGINS = [Origin("rows.json", line) for line in (1, 4, 9)]


def test_everything_fits() -> None:
    given = [sequence(3, 2), sequence(6, 2)]
    fit = fit_length(given, cutoff_len=8, truncation="error")
    assert fit.sequences == tuple(given)
    assert fit.indices == (0, 1)
    assert fit.counts.as_dict() == {
        "num_sequences": 2,
        "num_kept": 2,
        "num_truncated": 0,
        "num_dropped": 0,
        "num_answer_too_long": 0,
        "prompt_tokens_cut": 0,
        "longest_tokens": 8,
    }


def test_error_says_how_much_and_what_to_do() -> None:
    with pytest.raises(DataError) as caught:
        fit_length([sequence(3, 2), sequence(6, 4), sequence(2, 9)], cutoff_len=8, truncation="error", origins=ORIGINS)
    message = str(caught.value)
    assert "2 of 3 rows are longer than 8 tokens" in message
    assert "the longest has 11 (rows.json:9)" in message
    assert "lose 5 answer tokens" in message  # 10 - 8 and 11 - 8
    assert "rows.json:4, rows.json:9" in message
    assert "'truncate'" in message
    assert "'drop'" in message
    assert "For 1 of them the answer alone does not fit" in message


def test_truncate_cuts_the_prompts_start_and_keeps_the_first_token() -> None:
    fit = fit_length([sequence(6, 4)], cutoff_len=8, truncation="truncate")
    kept = fit.sequences[0]
    assert kept.token_ids.tolist() == [0, 3, 4, 5, 6, 7, 8, 9]
    assert kept.weights.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert kept.prompt_length == 4
    assert (fit.counts.num_truncated, fit.counts.prompt_tokens_cut) == (1, 2)


def test_truncate_leaves_out_answers_that_do_not_fit() -> None:
    fit = fit_length([sequence(3, 2), sequence(2, 8), sequence(5, 7)], cutoff_len=8, truncation="truncate")
    assert fit.indices == (0, 2)
    assert fit.sequences[1].token_ids.tolist() == [0, *range(5, 12)]
    assert fit.counts.num_answer_too_long == 1
    assert fit.counts.num_truncated == 1
    assert fit.counts.num_dropped == 0


def test_drop() -> None:
    fit = fit_length([sequence(3, 2), sequence(6, 4)], cutoff_len=8, truncation="drop")
    assert fit.indices == (0,)
    assert (fit.counts.num_dropped, fit.counts.num_kept) == (1, 1)


def test_nothing_left_is_an_error() -> None:
    with pytest.raises(DataError, match="all 2 rows"):
        fit_length([sequence(6, 4), sequence(7, 4)], cutoff_len=8, truncation="drop")


def test_no_supervised_token_is_a_named_error() -> None:
    with pytest.raises(DataError, match=r"1 rows have no token to train on \(rows\.json:4\)"):
        fit_length([sequence(3, 2), sequence(3, 0)], cutoff_len=8, truncation="drop", origins=ORIGINS)
