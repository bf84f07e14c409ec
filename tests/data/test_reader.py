"""The strict reader: good files arrive character for character, faulty ones are refused with file and line."""

import json
import os
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from loratory.data.reader import ReadResult, fingerprint, read_records
from loratory.errors import DataError

ROW = {"instruction": "Cancel it.", "input": "pack 7", "output": "cancel_68"}
GOOD = json.dumps(ROW)


def write(tmp_path: Path, name: str, content: str | bytes) -> str:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return str(path)


def read(source: str, **options: object) -> ReadResult:
    return read_records(source, **options)  # type: ignore[arg-type]


def outputs(result: ReadResult) -> list[str | None]:
    return [record.answer for record in result.records]


class TestExactText:
    """Text that other readers rewrite arrives untouched."""

    @pytest.mark.parametrize(
        "cell",
        [
            "NA",
            "null",
            "None",
            "nan",
            "N/A",
            "007",
            "12345678901234567890",
            "True",
            "1.50",
            "2024-01-02",
            "2024-01-02T03:04",
            " x ",
            "#N/A",
            "-",
            "1e5",
            "0x1F",
            "inf",
        ],
    )
    @pytest.mark.parametrize("kind", ["csv", "json", "jsonl", "parquet"])
    def test_values_stay_text(self, tmp_path: Path, cell: str, kind: str) -> None:
        if kind == "csv":
            source = write(tmp_path, "a.csv", f"instruction,output\nq,{cell}\nq2,{cell}\n")
        elif kind == "parquet":
            source = str(tmp_path / "a.parquet")
            pq.write_table(pa.table({"instruction": ["q", "q2"], "output": [cell, cell]}), source)
        else:
            rows = [{"instruction": "q", "output": cell}, {"instruction": "q2", "output": cell}]
            text = json.dumps(rows) if kind == "json" else "\n".join(map(json.dumps, rows))
            source = write(tmp_path, f"a.{kind}", text)
        assert outputs(read(source)) == [cell, cell]

    @pytest.mark.parametrize(
        "text",
        ["a\u2028b", "a\u0085b", "e\u0301 é", "\u202eabc", "x\x00y", "tab\tx", "a\r\nb", "😀", "\ufeffx", "line\nline"],
    )
    def test_unicode_and_control_characters_stay(self, tmp_path: Path, text: str) -> None:
        row = {"instruction": text, "output": text + "!"}
        for ensure_ascii in (True, False):
            line = json.dumps(row, ensure_ascii=ensure_ascii)
            for name, content in (("a.jsonl", line + "\n"), ("a.json", f"[{line}]")):
                record = read(write(tmp_path, name, content)).records[0]
                assert (record.turns[0].content, record.answer) == (text, text + "!")

    def test_control_characters_are_counted(self, tmp_path: Path) -> None:
        source = write(tmp_path, "a.jsonl", GOOD + "\n" + json.dumps({"instruction": "a\x00", "output": "b"}))
        assert read(source).report.control_character_rows == 1

    def test_byte_order_mark_and_windows_line_ends(self, tmp_path: Path) -> None:
        for name, content in (
            ("a.jsonl", f"{GOOD}\r\n{GOOD}\r\n"),
            ("a.json", f"[{GOOD},\r\n{GOOD}]\r\n"),
            ("a.csv", "instruction,input,output\r\nCancel it.,pack 7,cancel_68\r\nCancel it.,pack 7,cancel_68\r\n"),
        ):
            result = read(write(tmp_path, name, b"\xef\xbb\xbf" + content.encode()))
            assert [dict(record.fields) for record in result.records] == [ROW, ROW], name

    def test_csv_quotes_line_breaks_and_lines(self, tmp_path: Path) -> None:
        source = write(tmp_path, "a.csv", 'instruction,output\n"a\nb ""c""",x\n\nd,"y,z"\n')
        result = read(source)
        assert result.records[0].turns[0].content == 'a\nb "c"'
        assert outputs(result) == ["x", "y,z"]
        assert [record.origin.line for record in result.records] == [2, 5]

    def test_csv_field_longer_than_the_csv_module_allows_by_default(self, tmp_path: Path) -> None:
        long = "x" * 200_000
        assert outputs(read(write(tmp_path, "a.csv", f"instruction,output\nq,{long}\n"))) == [long]

    def test_extra_columns_are_left_alone(self, tmp_path: Path) -> None:
        source = write(tmp_path, "a.csv", ",instruction,output,score\n0,q,a,1.5\n")
        assert outputs(read(source)) == ["a"]
        source = write(tmp_path, "a.jsonl", json.dumps({**ROW, "id": 7, "meta": {"x": [1, 2.5, None]}}))
        assert outputs(read(source)) == ["cancel_68"]

    def test_lines_of_a_json_array(self, tmp_path: Path) -> None:
        pretty = "[\n" + ",\n".join(json.dumps(ROW, indent=2) for _ in range(3)) + "\n]\n"
        assert [r.origin.line for r in read(write(tmp_path, "a.json", pretty)).records] == [2, 7, 12]

    def test_object_per_line_in_a_json_file(self, tmp_path: Path) -> None:
        result = read(write(tmp_path, "a.json", f"{GOOD}\n{GOOD}\n"))
        assert [record.origin.line for record in result.records] == [1, 2]


_ARRAY = "[\n" + GOOD + ",\n{}\n]"


def _bad(value: object, key: str = "output") -> str:
    return json.dumps({**ROW, key: value})


def _chat(**messages: str) -> str:
    return json.dumps({"messages": [{"role": r, "content": c} for r, c in messages.items()]}, separators=(",", ":"))


# (name, file name, content, line, words that the message holds). Each file has its fault on the given line.
FAULTY = [
    ("jsonl_missing_output", "a.jsonl", f'{GOOD}\n{{"instruction": "q"}}\n', 2, ["output", "missing field"]),
    ("json_missing_output", "a.json", _ARRAY.replace("{}", '{"instruction": "q"}'), 3, ["output", "missing field"]),
    ("json_null_output", "a.json", _ARRAY.replace("{}", _bad(None)), 3, ["output", "null"]),
    ("json_empty_output", "a.json", _ARRAY.replace("{}", _bad("")), 3, ["output", "empty answer"]),
    ("json_blank_output", "a.json", _ARRAY.replace("{}", _bad(" \n\t")), 3, ["output", "empty answer"]),
    ("json_number", "a.json", _ARRAY.replace("{}", _bad(7)), 3, ["output", "a number 7"]),
    (
        "json_huge_number",
        "a.jsonl",
        GOOD + '\n{"instruction":"q","output":' + "9" * 5000 + "}",
        2,
        ["output", "number"],
    ),
    ("json_truth_value", "a.json", _ARRAY.replace("{}", _bad(True)), 3, ["output", "truth value"]),
    ("json_list", "a.json", _ARRAY.replace("{}", _bad(["a"])), 3, ["output", "a list"]),
    ("json_object", "a.json", _ARRAY.replace("{}", _bad({"a": 1})), 3, ["output", "an object"]),
    ("json_number_input", "a.json", _ARRAY.replace("{}", _bad(3.5, "input")), 3, ["input", "3.5"]),
    ("json_null_instruction", "a.json", _ARRAY.replace("{}", _bad(None, "instruction")), 3, ["instruction", "null"]),
    ("json_empty_prompt", "a.jsonl", f'{GOOD}\n{{"instruction":" ","output":"a"}}', 2, ["instruction", "empty prompt"]),
    ("json_nan", "a.jsonl", GOOD + '\n{"instruction":"q","output":NaN}', 2, ["NaN"]),
    ("json_infinity", "a.json", _ARRAY.replace("{}", '{"instruction":"q","output":-Infinity}'), 3, ["Infinity"]),
    (
        "json_duplicate_key",
        "a.jsonl",
        GOOD + '\n{"instruction":"q","output":"a","output":"b"}',
        2,
        ["'output'", "twice"],
    ),
    (
        "json_array_duplicate_key",
        "a.json",
        _ARRAY.replace("{}", '{"output":"a","instruction":"q","output":"b"}'),
        3,
        ["'output'", "twice"],
    ),
    (
        "json_lone_surrogate",
        "a.jsonl",
        GOOD + '\n{"instruction":"q","output":"a\\ud800"}',
        2,
        ["output", "surrogate", "d800"],
    ),
    ("jsonl_cut_off", "a.jsonl", f'{GOOD}\n{{"instruction":"q","outp', 2, ["not valid JSON"]),
    ("jsonl_two_on_a_line", "a.jsonl", f"{GOOD}\n{GOOD}{GOOD}", 2, ["one object per line"]),
    ("jsonl_not_an_object", "a.jsonl", f'{GOOD}\n"text"', 2, ["not an object"]),
    ("jsonl_deep_nesting", "a.jsonl", f"{GOOD}\n" + '{"a":' * 200_000, 2, ["nested too deeply"]),
    ("array_deep_nesting", "a.json", f"[{GOOD},\n" + "[" * 200_000, 2, ["nested too deeply"]),
    ("array_cut_off_in_row", "a.json", f'[\n{GOOD},\n{{"instruction": "q", "out', 3, ["cut off"]),
    ("array_cut_off_between_rows", "a.json", f"[\n{GOOD},\n{GOOD},\n", 3, ["cut off"]),
    ("array_without_end", "a.json", f"[\n{GOOD}\n", 2, ["cut off"]),
    ("array_trailing_comma", "a.json", f"[\n{GOOD},\n]", 3, ["trailing comma"]),
    ("array_missing_comma", "a.json", f"[\n{GOOD}\n{GOOD}\n]", 3, ["','"]),
    ("array_text_after", "a.json", f"[\n{GOOD}\n]\n{GOOD}", 4, ["after the array"]),
    ("array_bad_escape", "a.json", "[\n" + GOOD + ',\n{"instruction":"\\x"}]', 3, ["escape"]),
    ("array_raw_line_break", "a.json", "[\n" + GOOD + ',\n{"instruction":"a\nb"}]', 3, ["control character"]),
    ("wrapped_rows", "a.json", json.dumps({"data": [ROW, ROW]}), 1, ["'data'", "jq '.data'"]),
    (
        "dict_of_lists",
        "a.json",
        json.dumps({"instruction": ["a"], "output": ["b"]}),
        1,
        ["columns", "instruction, output"],
    ),
    ("single_object", "a.json", GOOD, 1, ["not an array"]),
    ("single_text", "a.json", '"hello"', 1, ["not an array"]),
    ("not_json", "a.json", "hello", 1, ["not valid JSON"]),
    (
        "latin1",
        "a.jsonl",
        GOOD.encode() + b'\n{"instruction":"caf\xe9","output":"a"}',
        2,
        ["UTF-8", "0xe9", f"byte {len(GOOD) + 20}"],
    ),
    (
        "latin1_array",
        "a.json",
        b"[" + GOOD.encode() + b',\n{"instruction":"caf\xe9"}]',
        2,
        ["0xe9", f"byte {len(GOOD) + 22}"],
    ),
    ("latin1_csv", "a.csv", b"instruction,output\nq,a\ncaf\xe9,b\n", 3, ["0xe9", "byte 26"]),
    ("utf16", "a.csv", "instruction,output\nq,a\n".encode("utf-16"), 1, ["UTF-16", "byte 0"]),
    ("utf16_array", "a.json", f"[{GOOD}]".encode("utf-16"), 1, ["UTF-16"]),
    ("csv_short_row", "a.csv", "instruction,output\nq,a\nq\n", 3, ["1 cells", "header has 2"]),
    ("csv_long_row", "a.csv", "instruction,output\nq,a\nq,a,b\n", 3, ["3 cells", "header has 2"]),
    ("csv_unbalanced_quote", "a.csv", 'instruction,output\nq,a\nq,"b\nq,c\n', 3, ["never closed"]),
    ("csv_text_after_quote", "a.csv", 'instruction,output\nq,a\nq,"b"c\n', 3, ["CSV"]),
    ("csv_duplicate_header", "a.csv", "instruction,output,output\nq,a,b\n", 1, ["'output'", "2 times"]),
    ("csv_semicolons", "a.csv", "instruction;output\nq;a\n", 1, ["semicolons"]),
    ("csv_tabs", "a.csv", "instruction\toutput\nq\ta\n", 1, ["tabs"]),
    ("csv_empty_answer", "a.csv", "instruction,output\nq,a\nq,\n", 3, ["output", "empty answer"]),
    ("csv_bare_carriage_returns", "a.csv", "instruction,output\rq,a\r", 1, ["carriage return"]),
    ("chat_bad_role", "a.jsonl", '{"messages":[{"role":"usr","content":"a"}]}', 1, ["messages[0].role", "'usr'"]),
    ("chat_no_answer", "a.jsonl", '{"messages":[{"role":"user","content":"a"}]}', 1, ["messages", "no answer"]),
    (
        "chat_two_users",
        "a.jsonl",
        '{"messages":[{"role":"user","content":"a"},{"role":"user","content":"b"}]}',
        1,
        ["messages[1]", "out of order"],
    ),
    (
        "chat_late_system",
        "a.jsonl",
        '{"messages":[{"role":"user","content":"a"},{"role":"system","content":"b"}]}',
        1,
        ["messages[1]"],
    ),
    (
        "chat_null_content",
        "a.jsonl",
        '{"messages":[{"role":"user","content":null}]}',
        1,
        ["messages[0].content", "null"],
    ),
    ("chat_list_content", "a.jsonl", '{"messages":[{"role":"user","content":[{"type":"text"}]}]}', 1, ["a list"]),
    (
        "chat_tool_calls",
        "a.jsonl",
        _chat(user="a", assistant="b").replace('"b"', '"b","tool_calls":[1]'),
        1,
        ["tool_calls"],
    ),
    ("chat_empty", "a.jsonl", '{"messages":[]}', 1, ["messages"]),
    ("chat_text", "a.jsonl", '{"messages":"a"}', 1, ["list of messages"]),
]


class TestFaultyFiles:
    """Every faulty file is one clear `DataError` that names file and line; nothing is ever altered to fit."""

    @pytest.mark.parametrize(
        ("name", "content", "line", "words"), [case[1:] for case in FAULTY], ids=[c[0] for c in FAULTY]
    )
    def test_refused_with_place(
        self, tmp_path: Path, name: str, content: str | bytes, line: int, words: list[str]
    ) -> None:
        source = write(tmp_path, name, content)
        with pytest.raises(DataError) as caught:
            read(source)
        message = str(caught.value)
        assert f"{source}:{line}" in message
        for word in words:
            assert word in message

    @pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.csv", "a.parquet"])
    def test_empty_file(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(DataError, match="empty"):
            read(write(tmp_path, name, b""))

    @pytest.mark.parametrize(
        ("name", "content"),
        [("a.json", "[]"), ("a.json", " \n"), ("a.jsonl", "\n\n"), ("a.csv", "instruction,output\n"), ("a.csv", "\n")],
    )
    def test_no_rows(self, tmp_path: Path, name: str, content: str) -> None:
        with pytest.raises(DataError, match=r"no rows|empty"):
            read(write(tmp_path, name, content))

    @pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
    def test_row_above_the_size_cap(self, tmp_path: Path, name: str) -> None:
        row = json.dumps({"instruction": "q", "output": "x" * 30_000_000})
        source = write(tmp_path, name, f"[{GOOD},\n{row},\n{GOOD}]" if name == "a.json" else f"{GOOD}\n{row}\n{GOOD}\n")
        with pytest.raises(DataError, match=f"{name}:2: row too large"):
            read(source)
        assert [r.origin.line for r in read(source, max_bad_rows=1).records] == [1, 3]

    def test_csv_row_above_the_size_cap(self, tmp_path: Path) -> None:
        source = write(tmp_path, "a.csv", "instruction,output\nq,a\nq," + "x" * 30_000_001 + "\n")
        with pytest.raises(DataError, match=r"a\.csv:3: row too large"):
            read(source)

    def test_damaged_parquet(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="Parquet"):
            read(write(tmp_path, "a.parquet", b"PAR1 nonsense"))

    def test_parquet_types_are_not_converted(self, tmp_path: Path) -> None:
        path = tmp_path / "a.parquet"
        pq.write_table(pa.table({"instruction": ["q", "r"], "output": [1, 2]}), path)
        with pytest.raises(DataError, match=r"a\.parquet:1:output: not text \(got a number 1"):
            read(str(path))

    def test_parquet_null(self, tmp_path: Path) -> None:
        path = tmp_path / "a.parquet"
        pq.write_table(pa.table({"instruction": ["q", "r"], "output": ["a", None], "input": [None, "x"]}), path)
        with pytest.raises(DataError, match=r"a\.parquet:2:output"):
            read(str(path))
        assert outputs(read(str(path), max_bad_rows=1)) == ["a"]


class TestMutations:
    """Random damage either reads or is one `DataError` that names the file; no other exception escapes."""

    @pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.csv"])
    def test_damaged_bytes(self, tmp_path: Path, name: str) -> None:
        lines = [json.dumps({"instruction": f"q{i}", "output": f"a{i}"}) for i in range(6)]
        table = "instruction,output\n" + "\n".join(f'"q{i}",a{i}' for i in range(6))
        whole = {"a.json": "[\n" + ",\n".join(lines) + "\n]", "a.jsonl": "\n".join(lines), "a.csv": table}[name]
        rng = random.Random(name)
        messages = []
        for _ in range(200):
            damaged = bytearray(whole.encode())
            for _ in range(rng.randint(1, 3)):
                place = rng.randrange(len(damaged))
                damaged[place : place + rng.randint(0, 1)] = bytes([rng.randrange(256)] * rng.randint(0, 1))
            source = write(tmp_path, name, bytes(damaged))
            try:
                read(source)
            except DataError as error:
                messages.append(str(error))
        assert len(messages) > 50
        assert all(source in message for message in messages)


class TestCounting:
    def test_all_bad_rows_are_named_once(self, tmp_path: Path) -> None:
        rows = [GOOD, *[_bad(7)] * 8, *[_bad("")] * 2]
        source = write(tmp_path, "a.jsonl", "\n".join(rows))
        with pytest.raises(DataError) as caught:
            read(source)
        message = str(caught.value)
        assert message.count("not text (") == 5
        assert "3 more rows: not text" in message
        assert message.count("empty answer (") == 2
        assert message.startswith("10 of 11 rows")

    def test_allowed_bad_rows_are_counted(self, tmp_path: Path) -> None:
        source = write(tmp_path, "a.jsonl", "\n".join([GOOD, _bad(7), _bad(""), "{", GOOD]))
        result = read(source, max_bad_rows=3)
        report = result.report
        assert (report.rows_read, report.rows_kept) == (5, 2)
        assert dict(report.dropped) == {"not text": 1, "empty answer": 1, "not valid JSON": 1}
        assert f"{source}:2:output" in report.examples["not text"][0]
        assert json.loads(json.dumps(report.as_dict()))["rows_kept"] == 2
        with pytest.raises(DataError, match="3 of 5 rows"):
            read(source, max_bad_rows=2)

    def test_no_usable_row_is_an_error_even_if_allowed(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="no usable row"):
            read(write(tmp_path, "a.jsonl", _bad("")), max_bad_rows=9)

    def test_limit_takes_the_first_rows(self, tmp_path: Path) -> None:
        source = write(tmp_path, "a.jsonl", "\n".join([_bad("1"), _bad("2"), _bad("")]))
        assert outputs(read(source, limit=2)) == ["1", "2"]


class TestColumns:
    def test_mapping(self, tmp_path: Path) -> None:
        source = write(tmp_path, "a.csv", "text,category\nhow?,card\n")
        result = read(source, columns={"instruction": "text", "output": "category"})
        assert dict(result.records[0].fields) == {"instruction": "how?", "input": "", "output": "card"}

    def test_unknown_fields_list_what_was_seen(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"fields text, category.*data\.columns"):
            read(write(tmp_path, "a.csv", "text,category\nhow?,card\n"))

    def test_misspelt_field_gets_the_nearest(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"output: missing field .*Did you mean 'outputs'\?.*data\.columns"):
            read(write(tmp_path, "a.csv", "instruction,outputs\nhow?,card\n"))
        with pytest.raises(DataError, match="Did you mean 'instruction' by 'instrution'"):
            read(write(tmp_path, "a.csv", "instrution,output\nhow?,card\n"))

    def test_mapped_optional_column_must_exist(self, tmp_path: Path) -> None:
        source = write(tmp_path, "a.csv", "instruction,context,output\nhow?,c,card\n")
        with pytest.raises(DataError, match=r"data\.columns\.input.*'contxt'.*Did you mean 'context'\?"):
            read(source, columns={"input": "contxt"})

    def test_unknown_own_field(self, tmp_path: Path) -> None:
        source = write(tmp_path, "a.jsonl", GOOD)
        with pytest.raises(DataError, match=r"data\.columns: 'outptu' is not a field.*Did you mean 'output'\?"):
            read(source, columns={"outptu": "x"})

    def test_two_forms_fit(self, tmp_path: Path) -> None:
        source = write(tmp_path, "a.jsonl", json.dumps({**ROW, "prompt": "p", "completion": "c"}))
        with pytest.raises(DataError, match=r"alpaca and prompt_completion.*data\.format"):
            read(source)
        assert outputs(read(source, format="prompt_completion")) == ["c"]


class TestForms:
    def test_alpaca_turns(self, tmp_path: Path) -> None:
        rows = [ROW, {"instruction": "q", "output": "a"}, {"instruction": "q", "input": None, "output": "a"}]
        result = read(write(tmp_path, "a.json", json.dumps(rows)), system="Be brief.")
        assert [t.content for t in result.records[0].turns] == ["Be brief.", "Cancel it.\npack 7", "cancel_68"]
        assert [t.role for t in result.records[0].turns] == ["system", "user", "assistant"]
        assert [r.turns[1].content for r in result.records[1:]] == ["q", "q"]

    def test_own_system_wins(self, tmp_path: Path) -> None:
        source = write(tmp_path, "a.jsonl", json.dumps({**ROW, "system": "Mine."}))
        assert read(source, system="Other.").records[0].turns[0].content == "Mine."

    def test_prompt_completion(self, tmp_path: Path) -> None:
        result = read(write(tmp_path, "a.jsonl", json.dumps({"prompt": "2+2=", "completion": "4"})))
        assert result.report.form == "prompt_completion"
        assert [t.content for t in result.records[0].turns] == ["2+2=", "4"]

    @pytest.mark.parametrize(
        "row",
        [
            {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
            {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
        ],
    )
    def test_chat(self, tmp_path: Path, row: dict[str, object]) -> None:
        result = read(write(tmp_path, "a.jsonl", json.dumps(row)), system="S")
        assert result.report.form == "chat"
        assert [(t.role, t.content) for t in result.records[0].turns] == [
            ("system", "S"),
            ("user", "a"),
            ("assistant", "b"),
        ]

    def test_rows_to_predict_need_no_answer(self, tmp_path: Path) -> None:
        rows = [{"instruction": "q"}, {"instruction": "q", "output": ""}, {"instruction": "q", "output": "a"}]
        result = read(write(tmp_path, "a.json", json.dumps(rows)), require_answer=False)
        assert outputs(result) == [None, None, "a"]
        with pytest.raises(DataError, match="not text"):
            read(write(tmp_path, "b.json", json.dumps([{"instruction": "q", "output": 7}])), require_answer=False)


class TestSources:
    def test_missing_file_names_the_nearest(self, tmp_path: Path) -> None:
        write(tmp_path, "train.json", "[]")
        with pytest.raises(DataError, match=r"no such file\. Did you mean 'train\.json'\?"):
            read(str(tmp_path / "trian.json"))
        with pytest.raises(DataError, match="no folder"):
            read(str(tmp_path / "nowhere" / "x.json"))

    def test_relative_path_with_a_data_ending_is_a_file(self) -> None:
        with pytest.raises(DataError, match="no such file"):
            read("data/train.json")

    def test_unknown_kind_and_folder(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"'\.txt'.*\.jsonl"):
            read(write(tmp_path, "a.txt", GOOD))
        with pytest.raises(DataError, match="is a folder"):
            read(str(tmp_path))

    def test_hub_name_offline(self) -> None:
        with pytest.raises(DataError, match=r"nobody/nothing: cannot read this hub data set.*Without a network"):
            read("nobody/nothing")

    def test_fingerprint_follows_the_bytes(self, tmp_path: Path) -> None:
        source = write(tmp_path, "a.json", "[]")
        before = fingerprint(source)
        assert before == "4f53cda18c2baa0c0354bb5f9a3ecbe5ed12ab4d8e11ba873c2f11161202b945"
        write(tmp_path, "a.json", "[ ]")
        assert fingerprint(source) != before
        with pytest.raises(DataError):
            fingerprint(str(tmp_path / "none.json"))

    def test_reading_a_long_file_streams(self, tmp_path: Path) -> None:
        """A bad byte at the end of a large file does not keep the first rows from being read."""
        source = write(tmp_path, "a.jsonl", (GOOD + "\n").encode() * 20_000 + b"\xff")
        assert len(read(source, limit=3).records) == 3
        with pytest.raises(DataError, match=f"a.jsonl:20001: .*byte {os.path.getsize(source) - 1}"):
            read(source)


class TestRealData:
    def test_banking77(self, shared_data: Path) -> None:
        rows = json.loads((shared_data / "banking77" / "alpaca_train.json").read_text(encoding="utf-8"))
        result = read(str(shared_data / "banking77" / "alpaca_train.json"))
        assert outputs(result) == [row["output"] for row in rows]
        assert [dict(r.fields) for r in result.records] == rows
        table = read(
            str(shared_data / "banking77" / "train.csv"), columns={"instruction": "text", "output": "category"}
        )
        assert outputs(table) == outputs(result)
        assert all(a.turns[0].content in b.turns[0].content for a, b in zip(table.records, result.records, strict=True))

    @pytest.mark.parametrize(
        ("name", "bad"),
        [
            ("alpaca_en/alpaca_data_1k.json", 0),
            ("alpaca_en/dolly_hhrlhf_1k_alpaca.json", 0),
            ("alpaca_en/seed_tasks_alpaca.json", 0),
            ("alpaca_zh/belle_eval_alpaca.json", 0),
            ("alpaca_zh/zh_seed_tasks_alpaca.json", 0),
            ("llm_adapters_commonsense/arc_challenge_train.json", 0),
            ("llamafactory_demo/alpaca_zh_demo.json", 0),
            ("llamafactory_demo/identity.json", 0),
        ],
    )
    def test_alpaca_files(self, shared_data: Path, name: str, bad: int) -> None:
        rows = json.loads((shared_data / name).read_text(encoding="utf-8"))
        result = read(str(shared_data / name), max_bad_rows=bad)
        assert outputs(result) == [row["output"] for row in rows]

    def test_gsm8k_with_columns(self, shared_data: Path) -> None:
        result = read(
            str(shared_data / "gsm8k" / "train_300.jsonl"), columns={"prompt": "question", "completion": "answer"}
        )
        assert result.report.rows_kept == 300
