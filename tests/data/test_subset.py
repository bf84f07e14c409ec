"""Subsets: nested, exact, stable by content, disjoint by prompt, rows unchanged."""

import json
import random
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loratory.data.record_stream import RecordStream
from loratory.data.strata import parse_stratum
from loratory.data.subset import Candidate, choose_subsets, write_subsets
from loratory.errors import DataError


def rows_of(count: int, classes: str = "aaaabbc") -> list[dict[str, Any]]:
    return [
        {"instruction": f"question {i}", "output": f"{classes[i % len(classes)]}_{i}", "id": i, "more": {"x": [1.50]}}
        for i in range(count)
    ]


def write(path: Path, rows: list[dict[str, Any]]) -> RecordStream:
    path.write_text(json.dumps(rows), encoding="utf-8")
    return RecordStream(str(path))


def candidates(spec: list[tuple[str, int]]) -> list[Candidate]:
    """Rows of (class, prompt number), as choosing sees them."""
    made = []
    for index, (stratum, prompt) in enumerate(spec):
        rng = random.Random(f"{stratum}{prompt}")
        made.append(Candidate(index, f"f:{index}", stratum, str(prompt), str(index), f"{rng.random()}{index}"))
    return made


SPEC = st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 25)), min_size=6, max_size=60)


@given(spec=SPEC, data=st.data())
def test_sets_are_nested_exact_disjoint_and_within_one_row_of_the_share(
    spec: list[tuple[str, int]], data: st.DataObject
) -> None:
    rows = candidates(spec)
    test_size = data.draw(st.integers(0, 3))
    largest = sum(row.prompt_key not in {r.prompt_key for r in _test_rows(rows, test_size)} for row in rows)
    sizes = data.draw(st.lists(st.integers(0, largest), min_size=1, max_size=3))
    cuts, withheld = choose_subsets(rows, sizes, test_size=test_size)
    test = cuts[0].rows if test_size else ()
    train = cuts[1:] if test_size else cuts
    assert len(test) == test_size
    assert withheld == len(rows) - largest - test_size
    for smaller, larger in pairwise(train):
        assert set(smaller.rows) <= set(larger.rows)
    for cut in cuts:
        assert cut.deviation < 1
        assert Counter(row.stratum for row in cut.rows) == Counter({k: v for k, v in cut.counts.items() if v})
        total = sum(cut.available.values())
        for name, count in cut.available.items():
            assert abs(cut.counts[name] - count * len(cut.rows) / total) < 1
    for cut in train:
        assert not {row.prompt_key for row in cut.rows} & {row.prompt_key for row in test}


def _test_rows(rows: list[Candidate], size: int) -> tuple[Candidate, ...]:
    return choose_subsets(rows, [], test_size=size)[0][0].rows if size else ()


def test_added_rows_and_order_move_only_the_border(tmp_path: Path) -> None:
    rows = rows_of(140)
    shuffled = random.Random(1).sample([*rows, *rows_of(154)[140:]], 154)
    stratum = parse_stratum("output:prefix(_)")
    before = write_subsets([write(tmp_path / "a.json", rows)], stratum, [70], output=tmp_path / "one")
    after = write_subsets([write(tmp_path / "b.json", shuffled)], stratum, [77], output=tmp_path / "two")
    old, new = (json.loads(result.files[result.cuts[0].name].read_text("utf-8")) for result in (before, after))
    kept = {row["id"] for row in old} & {row["id"] for row in new}
    # In each class the new choice is the old order with the 14 new rows sorted in: at most those push others out.
    assert len(old) - len(kept) <= 14
    assert len(kept) >= 56


def test_rows_come_out_as_they_went_in_and_the_manifest_names_them(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    lines = [
        f'{{"instruction": "q{i}", "output": "a_{i % 3}", "n": 007.50, "u": "套"}}'.replace("007", "7")
        for i in range(12)
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    stratum = parse_stratum("output")
    result = write_subsets([RecordStream(str(path))], stratum, [6, 3], output=tmp_path / "out", test_size=3)
    written = (tmp_path / "out" / "train_6.jsonl").read_text("utf-8").splitlines()
    assert len(written) == 6
    assert set(written) <= set(lines)
    manifest = json.loads(result.manifest.read_text("utf-8"))
    assert [each["name"] for each in manifest["sets"]] == ["test_3", "train_3", "train_6"]
    assert all(each["largest_share_deviation_rows"] <= 1 for each in manifest["sets"])
    places = [each["place"] for each in manifest["sets"][2]["ids"]]
    assert [lines[int(place.rsplit(":", 1)[1]) - 1] for place in places] == written


def test_csv_stays_csv(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('instruction,output\n"a, b",x\nc,y\n"d\ne",x\nf,y\n', encoding="utf-8")
    result = write_subsets([RecordStream(str(path))], parse_stratum("output"), [4], output=tmp_path / "out")
    assert result.files["train_4"].read_text("utf-8") == path.read_text("utf-8")


def test_too_many_rows_wanted(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="99 train rows were asked for and 10 are there"):
        write_subsets([write(tmp_path / "r.json", rows_of(10))], parse_stratum("output"), [99], output=tmp_path / "o")
    assert not (tmp_path / "o").exists()


def test_bad_rows_are_an_error_until_allowed(tmp_path: Path) -> None:
    rows = [*rows_of(6), {"instruction": 5, "output": "x"}]
    stratum = parse_stratum("output:prefix(_)")
    with pytest.raises(DataError, match=r"r\.json:1:instruction"):
        write_subsets([write(tmp_path / "r.json", rows)], stratum, [2], output=tmp_path / "o")
    result = write_subsets([write(tmp_path / "r.json", rows)], stratum, [2], output=tmp_path / "o", max_bad_rows=1)
    assert (result.skipped, result.rows_read) == (1, 7)
