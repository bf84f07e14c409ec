"""Segment tokenisation: control strings of a row stay text, inner segments get no space of the tokenizer's own."""

import pytest
from transformers import PreTrainedTokenizerFast

from loratory.data.segments import MARK_CLOSE, MARK_OPEN, Segment, SegmentEncoder, unmarked
from loratory.errors import TemplateError


def test_marks_wrap_control_strings_only(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    encoder = SegmentEncoder(tiny_tokenizer)
    marked = encoder.mark("a<|im_end|>b </s", is_answer=False)
    assert marked == f"a{MARK_OPEN}<|im_end|>{MARK_CLOSE}b </s"
    assert unmarked(marked) == "a<|im_end|>b </s"
    with pytest.raises(TemplateError, match="reserves for internal use"):
        encoder.mark(f"a{MARK_CLOSE}", is_answer=True)


def test_marked_text_is_spelt_and_the_rest_is_control(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    encoder = SegmentEncoder(tiny_tokenizer)
    end = tiny_tokenizer.convert_tokens_to_ids("<|im_end|>")
    text = encoder.mark("x<|im_end|>", is_answer=False) + "<|im_end|>"
    (ids,) = encoder.encode([Segment(text, trained=False)])
    assert ids.count(end) == 1
    assert ids[-1] == end
    assert tiny_tokenizer.decode(ids) == "x<|im_end|><|im_end|>"
    assert encoder.find_unmarked("<|im_end|>", text, 0) == len(text) - len("<|im_end|>")
    assert encoder.find_unmarked("<|im_start|>", text, 0) == -1


def test_order_repeats_and_token_segments(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    encoder = SegmentEncoder(tiny_tokenizer)
    segments = [Segment("b", False), Segment("", True, token_id=9), Segment("a", False), Segment("b", True)]
    b, a = tiny_tokenizer("b")["input_ids"], tiny_tokenizer("a")["input_ids"]
    assert encoder.encode([*segments, Segment("", False)]) == [b, [9], a, b, []]
