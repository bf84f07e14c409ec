"""Strict YAML."""

import math
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from loratory.config.document import MAX_BYTES, dump_document, parse_document, read_document
from loratory.errors import ConfigError, UnsafeError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("2E5", 2e5),
        ("-1.5e+3", -1500.0),
        (".5", 0.5),
        ("3.", 3.0),
        ("1_000", 1000),
        ("0", 0),
        ("-7", -7),
        ("010", "010"),
        ("12:30", "12:30"),
        ("2024-01-01", "2024-01-01"),
        ("0x10", "0x10"),
        ("1e", "1e"),
        ("true", True),
        ("null", None),
        ("~", None),
        ("", None),
        ("none", "none"),
        ("请问", "请问"),
        ("[a, 1, {b: 2.5}]", ["a", 1, {"b": 2.5}]),
    ],
)
def test_scalars_become_what_a_reader_expects(text: str, value: object) -> None:
    found = parse_document(text, "t")
    assert found == value
    assert type(found) is type(value)


def test_infinity_is_a_number() -> None:
    assert parse_document(".inf", "t") == math.inf


def test_repeated_keys_are_all_named_with_their_lines() -> None:
    text = "a:\n  b: 1\n  b: 2\nc: 1\na: 3\n"
    with pytest.raises(ConfigError) as caught:
        parse_document(text, "run.yaml")
    assert caught.value.faults == [
        "a.b: given twice, run.yaml:2 and run.yaml:3; keep one of them",
        "a: given twice, run.yaml:1 and run.yaml:5; keep one of them",
    ]


def test_merge_keys_and_aliases_work() -> None:
    assert parse_document("x: &x {a: 1}\ny:\n  <<: *x\n  b: 2\n", "t") == {"x": {"a": 1}, "y": {"a": 1, "b": 2}}


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.system ['true']", "!!python/name:os.system ''"])
def test_python_tags_are_refused(tag: str) -> None:
    with pytest.raises(UnsafeError, match="builds Python objects"):
        parse_document(f"a: {tag}", "t")


def test_unknown_tag_is_a_fault() -> None:
    with pytest.raises(ConfigError, match=r"run\.yaml:1"):
        parse_document("a: !mine 3", "run.yaml")


def test_exploding_aliases_are_refused_at_once() -> None:
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)]
    with pytest.raises(UnsafeError, match="aliases"):
        parse_document("\n".join(levels), "t")


def test_self_containing_alias_is_refused() -> None:
    with pytest.raises(UnsafeError, match="contains itself"):
        parse_document("a: &a [*a]", "t")


def test_deep_nesting_is_refused() -> None:
    with pytest.raises(UnsafeError, match="nested deeper"):
        parse_document("[" * 5000, "t")


@pytest.mark.parametrize("text", ["a: [1, 2", "a: b: c", "a: *nowhere", "--- 1\n--- 2", "\ta: 1", "a: \x00"])
def test_bad_syntax_is_one_fault_that_names_the_source(text: str) -> None:
    with pytest.raises(ConfigError, match=r"run\.yaml"):
        parse_document(text, "run.yaml")


def test_non_text_keys_are_faults() -> None:
    with pytest.raises(ConfigError, match="key must be text"):
        parse_document("[1, 2]: 3", "t")


def test_files_that_are_no_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        read_document(tmp_path / "absent.yaml")
    with pytest.raises(ConfigError, match="not a regular file"):
        read_document(tmp_path)
    (tmp_path / "latin.yaml").write_bytes("a: é".encode("latin-1"))
    with pytest.raises(ConfigError, match="not UTF-8"):
        read_document(tmp_path / "latin.yaml")
    (tmp_path / "large.yaml").write_text("#" * (MAX_BYTES + 1), encoding="utf-8")
    with pytest.raises(ConfigError, match="too large"):
        read_document(tmp_path / "large.yaml")


def test_byte_order_mark_is_no_part_of_the_first_key(tmp_path: Path) -> None:
    path = tmp_path / "bom.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert read_document(path) == {"a": 1}


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(_VALUES)
def test_what_is_written_is_read_back(value: object) -> None:
    assert parse_document(dump_document(value), "t") == value


@given(st.sampled_from(["1e-4", "010", "2024-01-01", "no", "~", "1:30", ".5", "0x1", "null", "=", "<<"]))
def test_text_that_looks_like_a_number_stays_text_for_every_reader(text: str) -> None:
    written = dump_document({"a": text})
    assert parse_document(written, "t") == {"a": text}
    assert yaml.safe_load(written) == {"a": text}
