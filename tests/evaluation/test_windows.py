"""Windows over a short text, countable by hand."""

import pytest

from loratory.errors import ConfigError, DataError
from loratory.evaluation.windows import Windowing, cut, opening_token


def scored(windows: list) -> list[list[int]]:
    return [w.token_ids[w.weights > 0].tolist() for w in windows]


def test_non_overlapping_windows_score_all_but_their_first_token_and_drop_the_tail() -> None:
    windows = cut(range(10, 19), Windowing(4, 4, "no"))
    assert [w.token_ids.tolist() for w in windows] == [[10, 11, 12, 13], [14, 15, 16, 17]]
    assert scored(windows) == [[11, 12, 13], [15, 16, 17]]


def test_overlapping_windows_score_each_token_once() -> None:
    windows = cut(range(10, 18), Windowing(4, 2, "no"))
    assert [w.token_ids.tolist() for w in windows] == [[10, 11, 12, 13], [12, 13, 14, 15], [14, 15, 16, 17]]
    assert scored(windows) == [[11, 12, 13], [14, 15], [16, 17]]


def test_the_begin_token_stands_before_the_text_or_before_each_window() -> None:
    assert scored(cut([5, 6, 7], Windowing(2, 2, "text"), bos_token_id=1)) == [[5], [7]]
    windows = cut([5, 6, 7, 8], Windowing(3, 3, "window"), bos_token_id=1)
    assert [w.token_ids.tolist() for w in windows] == [[1, 5, 6], [1, 7, 8]]
    assert scored(windows) == [[5, 6], [7, 8]]


def test_a_short_text_is_one_window() -> None:
    assert scored(cut([5, 6, 7], Windowing(128, 128, "no"))) == [[6, 7]]
    with pytest.raises(DataError, match="at least 2"):
        cut([5], Windowing(128, 128, "no"))


@pytest.mark.parametrize(("window", "stride"), [(1, 1), (4, 0), (4, 5)])
def test_impossible_windows_are_refused(window: int, stride: int) -> None:
    with pytest.raises(ConfigError):
        Windowing(window, stride, "no")


def test_the_tokenizer_decides_about_the_begin_token_by_default(tiny_tokenizer) -> None:  # type: ignore[no-untyped-def]
    assert opening_token(tiny_tokenizer, "auto") == "no"
    assert opening_token(tiny_tokenizer, "window") == "window"
    tiny_tokenizer.bos_token = None
    with pytest.raises(ConfigError, match="begin token"):
        opening_token(tiny_tokenizer, "text")
