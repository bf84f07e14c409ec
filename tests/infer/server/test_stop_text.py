"""Stop strings by hand."""

from hypothesis import given
from hypothesis import strategies as st

from loratory.infer.server.stop_text import StopText


def test_what_may_begin_a_stop_string_is_held_back() -> None:
    stop = StopText(["END", "ENOUGH"])
    assert [stop.push(piece) for piece in ("abE", "N", "x", "E", "NO", "UGHmore")] == ["ab", "", "ENx", "", "", ""]
    assert stop.is_stopped
    assert stop.push("x") == stop.flush() == ""


def test_the_earliest_stop_string_counts() -> None:
    stop = StopText(["b", "ab"])
    assert stop.push("xaby") == "x"


@given(st.lists(st.text("ab", max_size=3)), st.lists(st.text("ab", min_size=1, max_size=3), max_size=3))
def test_pieces_give_the_text_before_the_first_stop(pieces: list[str], stops: list[str]) -> None:
    stream = StopText(stops)
    found = "".join(stream.push(piece) for piece in pieces)
    text = "".join(pieces)
    ends = [text.find(stop) for stop in stops if stop in text]
    if stream.is_stopped:
        # A piece may bring two of them; a shorter stop may come to its end before an earlier, longer one.
        assert any(text.startswith(found + stop) for stop in stops)
        assert min(ends) <= len(found)
    else:
        assert not ends
        assert found + stream.flush() == text
