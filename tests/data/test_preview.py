"""A preview shows exactly the tokens and weights that training sees."""

from transformers import PreTrainedTokenizerFast

from loratory.data.preview import preview_records
from loratory.data.records import Origin, Record, Turn
from loratory.data.templates import bind_template


def test_tokens_and_weights_are_those_of_the_sequence(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    record = Record((Turn("user", "Cancel 套 it"), Turn("assistant", "cancel_68")), Origin("f", 7))
    template = bind_template("chat", tiny_tokenizer)
    (example,) = preview_records([record], template, tiny_tokenizer)
    sequence = template.sequence(record)
    assert [token.token_id for token in example.tokens] == sequence.token_ids.tolist()
    assert [token.weight for token in example.tokens] == sequence.weights.tolist()
    assert "".join(token.text for token in example.tokens if token.weight) == "cancel_68<|im_end|>"
    assert (example.place, example.num_supervised) == ("f:7", sequence.num_supervised)
    assert all(token.text for token in example.tokens)
