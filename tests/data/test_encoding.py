"""Records to sequences in one pass: equal to one by one, grouped, counted, fast enough."""

import time
from pathlib import Path

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from loratory.data.encoding import encode_records
from loratory.data.reader import read_records
from loratory.data.records import Origin, Record, Turn
from loratory.data.sequence import TokenSequence
from loratory.data.templates import bind_template
from loratory.errors import DataError


def rows(count: int) -> list[Record]:
    return [
        Record((Turn("user", f"question {i}"), Turn("assistant", "yes " * (1 + i % 3))), Origin("a.json", i + 1))
        for i in range(count)
    ]


def test_equals_single_sequences(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    template = bind_template("chat", tiny_tokenizer)
    done: list[int] = []
    data = rows(700)
    encoded = encode_records(data, template, cutoff_len=100, truncation="error", on_progress=done.append)
    assert encoded.indices == tuple(range(700))
    for group, record in zip(encoded.sequences, data, strict=True):
        (sequence,) = group
        assert sequence.token_ids.tolist() == template.sequence(record).token_ids.tolist()
    assert done[-1] == 700
    lengths = [len(group[0]) for group in encoded.sequences]
    stats = encoded.stats
    assert (stats.num_tokens, stats.max_tokens) == (sum(lengths), max(lengths))
    assert stats.median_tokens == int(np.median(lengths))
    assert stats.num_supervised == sum(group[0].num_supervised for group in encoded.sequences)


def test_groups_stay_whole(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    """A pair of which one half is too long is left out as a pair."""
    template = bind_template("chat", tiny_tokenizer)

    def pair(record: Record) -> list[TokenSequence]:
        worse = Record(
            (*record.prompt, Turn("assistant", "7" * 100 if record.origin.line == 2 else "no")), record.origin
        )
        return [template.sequence(record), template.sequence(worse)]

    encoded = encode_records(rows(3), template, cutoff_len=60, truncation="drop", objective_sequences=pair)
    assert encoded.indices == (0, 2)
    assert [len(group) for group in encoded.sequences] == [2, 2]
    assert encoded.counts.num_dropped == 1


def test_too_long_rows_are_named(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    template = bind_template("chat", tiny_tokenizer)
    long = Record((Turn("user", "word " * 99), Turn("assistant", "a")), Origin("a.json", 77))
    with pytest.raises(DataError, match=r"a\.json:77"):
        encode_records([*rows(2), long], template, cutoff_len=64, truncation="error")


@pytest.mark.parametrize("name", ["chat", "alpaca", "plain"])
@pytest.mark.parametrize(
    "file", ["alpaca_en/alpaca_data_1k.json", "alpaca_zh/belle_eval_alpaca.json", "llamafactory_demo/identity.json"]
)
def test_real_rows_keep_the_law(
    shared_data: Path, tiny_tokenizer: PreTrainedTokenizerFast, name: str, file: str
) -> None:
    records = read_records(str(shared_data / file)).records
    template = bind_template(name, tiny_tokenizer)
    encoded = encode_records(records, template, cutoff_len=100_000, truncation="error")
    for record, (sequence,) in zip(records, encoded.sequences, strict=True):
        assert tiny_tokenizer.decode(sequence.token_ids[sequence.prompt_length : -1]) == record.answer
        assert sequence.token_ids[-1] == template.stop_token_ids[0]
    for record, (sequence,) in list(zip(records, encoded.sequences, strict=True))[::10]:
        assert template.generation_prompt(record) == sequence.token_ids[: sequence.prompt_length].tolist()


def test_speed_on_real_rows(shared_data: Path, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    """Short rows are read and tokenised by the thousand per second of one core (floor far below the measured rate)."""
    records = read_records(str(shared_data / "banking77" / "alpaca_train.json"), limit=2000).records
    template = bind_template("chat", tiny_tokenizer)
    start = time.process_time()
    encode_records(records, template, cutoff_len=1024, truncation="error")
    assert len(records) / (time.process_time() - start) > 500
