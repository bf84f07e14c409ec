"""Streaming text: pieces add up to the whole, and no piece ends in half a character."""

import pytest
from transformers import PreTrainedTokenizerFast

from loratory.infer.decoding import TextStream, decode

TEXTS = [
    "Please cancel_68 now.",
    "请问如何取消流量包？",
    "é, ü and 👩‍👩‍👧 family 🙂!",
    "  leading and trailing  ",
    "line\n\nline\t1 2 3",
    "",
    "鿿" * 5 + "\u2028",
]


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_add_up_and_characters_are_whole(tiny_tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    ids = tiny_tokenizer.encode(text, add_special_tokens=False)
    stream = TextStream(tiny_tokenizer)
    pieces = [stream.push(token) for token in ids] + [stream.flush()]
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)
    if any(ord(character) > 0x7FF for character in text):
        assert "" in pieces, "some token must have been held back"


def test_pieces_come_early(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    ids = tiny_tokenizer.encode("cancel it", add_special_tokens=False)
    stream = TextStream(tiny_tokenizer)
    assert stream.push(ids[0]) != ""


def test_broken_bytes_come_out_at_the_end(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    ids = tiny_tokenizer.encode("ok 鿿", add_special_tokens=False)[:-1]
    stream = TextStream(tiny_tokenizer)
    pieces = [stream.push(token) for token in ids]
    assert "\ufffd" not in "".join(pieces)
    assert "".join(pieces) + stream.flush() == decode(tiny_tokenizer, ids)
    assert stream.flush() == ""


def test_broken_bytes_in_the_middle_do_not_hold_the_rest(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    broken = tiny_tokenizer.encode("鿿", add_special_tokens=False)[:1]
    ids = [*broken, *tiny_tokenizer.encode("cancel", add_special_tokens=False)]
    stream = TextStream(tiny_tokenizer)
    pieces = [stream.push(token) for token in ids]
    assert "".join(pieces) == decode(tiny_tokenizer, ids)


def test_special_tokens_are_silent(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    stream = TextStream(tiny_tokenizer)
    assert stream.push(tiny_tokenizer.eos_token_id) == ""
    assert stream.flush() == ""


def test_spaces_stay_as_they_are(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    text = "a , b ! don ' t"
    assert decode(tiny_tokenizer, tiny_tokenizer.encode(text, add_special_tokens=False)) == text
