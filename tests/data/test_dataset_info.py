"""Registers of LLaMA-Factory: every demo file, every key, every fault with its place."""

import json
from pathlib import Path
from typing import Any

import pytest

from loratory.data.reader import ReadResult, fingerprint, read_records
from loratory.data.records import Record, Turn
from loratory.data.sources import find_source, source_names
from loratory.errors import DataError

ALPACA = [
    {"instruction": "Add.", "input": "1 2", "output": "3"},
    {"instruction": "Hi", "input": "", "output": "Hello"},
]
CHAT = [
    {"from": "human", "value": "q"},
    {"from": "function_call", "value": '{"name": "f"}'},
    {"from": "observation", "value": "r"},
    {"from": "gpt", "value": "a"},
]


def register(folder: Path, entry: dict[str, Any], rows: object = ALPACA, *, file: str = "rows.json") -> Path:
    """A folder with one data file and a register with one entry, 'mine'."""
    (folder / file).write_text(json.dumps(rows), encoding="utf-8")
    info = {"other": {"file_name": "absent.json"}, "mine": {"file_name": file, **entry}}
    (folder / "dataset_info.json").write_text(json.dumps(info, indent=1), encoding="utf-8")
    return folder


def read(folder: Path, name: str = "mine", **options: Any) -> ReadResult:
    return read_records(name, dataset_dir=str(folder), **options)


def only(folder: Path, **options: Any) -> Record:
    (record,) = read(folder, **options).records
    return record


def roles(record: Record) -> str:
    return " ".join(turn.role for turn in record.turns)


class TestDemo:
    @pytest.mark.parametrize(
        ("name", "rows"),
        [
            ("identity", 91),
            ("alpaca_en_demo", 999),
            ("alpaca_zh_demo", 1000),
            ("glaive_toolcall_en_demo", 300),
            ("dpo_en_demo", 300),
            ("dpo_zh_demo", 300),
            ("kto_en_demo", 300),
        ],
    )
    def test_every_file_loads_whole(self, shared_data: Path, name: str, rows: int) -> None:
        folder = shared_data / "llamafactory_demo"
        result = read(folder, name)
        assert len(result.records) == result.report.rows_read == rows
        raw = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        for record, row in zip(result.records, raw, strict=True):
            if name.startswith("dpo"):
                assert record.alternatives == (row["chosen"]["value"], row["rejected"]["value"])
                assert record.answer is None
                assert [t.content for t in record.turns] == [m["value"] for m in row["conversations"]]
            elif name.startswith("kto"):
                assert record.label is row["label"]
                assert [(t.role, t.content) for t in record.turns] == [
                    (m["role"], m["content"]) for m in row["messages"]
                ]
            elif "toolcall" in name:
                turns = [turn for turn in record.turns if turn.role != "system"]
                assert [t.content for t in turns] == [m["value"] for m in row["conversations"]]
                assert (row["tools"] == "[]") == (record.turns[0].role == "user")
                assert row["tools"] == "[]" or record.turns[0].content.endswith(row["tools"])
            else:
                assert record.answer == row["output"]
                assert record.fields == row

    def test_entries_without_their_file(self, shared_data: Path) -> None:
        folder = shared_data / "llamafactory_demo"
        with pytest.raises(DataError, match=r"dataset_info\.json:\d+: 'glaive_toolcall_zh_demo': file_name: there is"):
            read(folder, "glaive_toolcall_zh_demo")
        with pytest.raises(DataError, match=r"'mllm_demo': columns\.images: .*not supported"):
            read(folder, "mllm_demo")
        with pytest.raises(DataError, match=r"'deepctrl': ms_hub_url: ModelScope is not read\. Download the rows and"):
            read(folder, "deepctrl")

    def test_every_other_entry_is_understood_or_refused(self, shared_data: Path) -> None:
        """Of the register's 104 entries none fails in another way than by a clear refusal."""
        folder = shared_data / "llamafactory_demo"
        names = list(json.loads((folder / "dataset_info.json").read_text(encoding="utf-8")))
        found, refused = [], []
        for name in names:
            try:
                found.append(find_source(name, dataset_dir=str(folder)))
            except DataError as error:
                refused.append((name, str(error)))
        assert len(found) + len(refused) == 104
        assert all(f"'{name}'" in message for name, message in refused)
        reasons = ("file_name: there is no", "are not supported", "ModelScope is not read", "ranking needs columns")
        assert all(any(reason in message for reason in reasons) for _, message in refused)
        assert sum(source.hub is not None for source in found) > 60


class TestNames:
    def test_by_folder_and_name(self, tmp_path: Path) -> None:
        register(tmp_path, {})
        by_path = read_records(f"{tmp_path}/mine")
        assert by_path.records == read(tmp_path).records
        assert by_path.records[0].origin.file == str(tmp_path / "rows.json")
        assert str(by_path.records[1].origin).endswith("rows.json:1")

    def test_unknown_names_the_nearest(self, tmp_path: Path) -> None:
        register(tmp_path, {})
        for name, options in ((f"{tmp_path}/mien", {}), ("mien", {"dataset_dir": str(tmp_path)})):
            with pytest.raises(DataError, match=r"has no entry 'mien'\. Did you mean 'mine'\? It has 2 entries"):
                read_records(name, **options)  # type: ignore[arg-type]

    def test_files_are_known_beside_entries(self, tmp_path: Path) -> None:
        register(tmp_path, {})
        assert read(tmp_path, str(tmp_path / "rows.json")).report.rows_kept == 2

    def test_no_register(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"data\.dataset_dir: '.*' holds no dataset_info\.json"):
            read(tmp_path)
        with pytest.raises(DataError, match=r"mine: no such file.*set data\.dataset_dir"):
            read_records("mine")
        register(tmp_path, {})
        with pytest.raises(DataError, match=r"is a folder; .*/other, .*/mine"):
            read_records(str(tmp_path))

    def test_lists(self, tmp_path: Path) -> None:
        assert source_names("a.json") == ("a.json",)
        assert source_names("a, b.json,") == ("a", "b.json")
        assert source_names(["a,b", "c"]) == ("a,b", "c")
        odd = tmp_path / "a,b.json"
        odd.write_text("[]")
        assert source_names(str(odd)) == (str(odd),)


class TestForms:
    def test_columns_are_whole_when_given(self, tmp_path: Path) -> None:
        """With `columns`, roles that are not named are not used, even where the usual column is there."""
        rows = [{"q": "Hi", "input": "unused", "a": "Hello", "s": "Be brief."}]
        folder = register(tmp_path, {"columns": {"prompt": "q", "response": "a", "system": "s"}}, rows)
        assert only(folder).turns == (Turn("system", "Be brief."), Turn("user", "Hi"), Turn("assistant", "Hello"))

    def test_history(self, tmp_path: Path) -> None:
        rows = [{**ALPACA[0], "history": [["one", "1"], ["two", "2"]]}, {**ALPACA[1], "history": []}]
        columns = {"prompt": "instruction", "query": "input", "response": "output", "history": "history"}
        first, second = read(register(tmp_path, {"columns": columns}, rows), system="S").records
        assert roles(first) == "system user assistant user assistant user assistant"
        assert [turn.content for turn in first.turns] == ["S", "one", "1", "two", "2", "Add.\n1 2", "3"]
        assert first.fields == {}
        assert second.fields == ALPACA[1]

    def test_pairs_of_alpaca(self, tmp_path: Path) -> None:
        rows = [{"instruction": "q", "input": "", "good": "yes", "bad": "no"}]
        columns = {"prompt": "instruction", "query": "input", "chosen": "good", "rejected": "bad"}
        record = only(register(tmp_path, {"ranking": True, "columns": columns}, rows))
        assert (record.turns, record.alternatives, record.label) == ((Turn("user", "q"),), ("yes", "no"), None)

    def test_labels(self, tmp_path: Path) -> None:
        rows = [{"instruction": "q", "output": "a", "ok": False}]
        columns = {"prompt": "instruction", "response": "output", "kto_tag": "ok"}
        record = only(register(tmp_path, {"columns": columns}, rows))
        assert (record.answer, record.label) == ("a", False)

    def test_prompts_alone(self, tmp_path: Path) -> None:
        folder = register(tmp_path, {"columns": {"prompt": "instruction"}}, [{"instruction": "q"}])
        assert only(folder, require_answer=False).turns == (Turn("user", "q"),)
        with pytest.raises(DataError, match=r"rows\.json:1: empty answer .*names no response column"):
            read(folder)

    def test_tools(self, tmp_path: Path) -> None:
        rows = [{"conversations": CHAT, "tools": '[{"name": "f"}]'}]
        columns = {"messages": "conversations", "tools": "tools"}
        record = only(register(tmp_path, {"formatting": "sharegpt", "columns": columns}, rows), system="S")
        assert roles(record) == "system user assistant tool assistant"
        assert record.turns[0].content == 'S\n\nYou have access to these tools, given as JSON:\n[{"name": "f"}]'

    def test_system_message_overrides_the_column(self, tmp_path: Path) -> None:
        rows = [
            {"conversations": [{"from": "system", "value": "own"}, *CHAT], "s": "column"},
            {"conversations": CHAT, "s": "column"},
        ]
        columns = {"messages": "conversations", "system": "s"}
        first, second = read(register(tmp_path, {"formatting": "sharegpt", "columns": columns}, rows)).records
        assert (first.turns[0].content, second.turns[0].content) == ("own", "column")
        assert roles(first) == roles(second)

    def test_openai(self, tmp_path: Path) -> None:
        """Without tags of its own, an entry of this kind has OpenAI's."""
        rows = [{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}]
        assert only(register(tmp_path, {"formatting": "openai"}, rows)).answer == "a"


class TestPlaces:
    def test_folder_of_files(self, tmp_path: Path) -> None:
        (tmp_path / "parts").mkdir()
        for name, row in zip(("b.jsonl", "a.jsonl"), ALPACA, strict=True):
            (tmp_path / "parts" / name).write_text(json.dumps(row) + "\n")
        register(tmp_path, {"file_name": "parts"})
        assert [record.answer for record in read(tmp_path).records] == ["Hello", "3"]
        assert str(read(tmp_path).records[1].origin) == str(tmp_path / "parts" / "b.jsonl") + ":1"
        (tmp_path / "parts" / "c.csv").write_text("x\n")
        with pytest.raises(DataError, match=r"holds files of kinds \.csv, \.jsonl; it needs files of one kind"):
            read(tmp_path)

    def test_hub_offline(self, tmp_path: Path) -> None:
        register(tmp_path, {"hf_hub_url": "nobody/nothing", "subset": "small", "split": "dev", "folder": "x"})
        source = find_source("mine", dataset_dir=str(tmp_path))
        assert source.hub is not None
        assert (source.hub.name, source.hub.subset, source.hub.split, source.hub.folder) == (
            "nobody/nothing",
            "small",
            "dev",
            "x",
        )
        with pytest.raises(
            DataError, match=r"mine: cannot read this hub data set \('nobody/nothing', split 'dev'\).*fi"
        ):
            read(tmp_path)

    def test_fingerprint_sees_bytes_and_definition(self, tmp_path: Path) -> None:
        register(tmp_path, {})
        first = fingerprint("mine", dataset_dir=str(tmp_path))
        assert first != fingerprint(str(tmp_path / "rows.json"))
        register(tmp_path, {"num_samples": 2})
        second = fingerprint("mine", dataset_dir=str(tmp_path))
        register(tmp_path, {"num_samples": 2}, ALPACA[:1])
        assert len({first, second, fingerprint("mine", dataset_dir=str(tmp_path))}) == 3


class TestSamples:
    def test_by_content(self, tmp_path: Path) -> None:
        """Nested, in file order, and the same whatever the order of the file."""
        rows = [{"instruction": str(i), "input": "", "output": "x"} for i in range(20)]
        chosen = {}
        for count in (5, 10):
            folder = register(tmp_path, {"num_samples": count}, rows)
            chosen[count] = [record.prompt[0].content for record in read(folder).records]
            assert len(chosen[count]) == count
            assert chosen[count] == sorted(chosen[count], key=int)
        assert set(chosen[5]) < set(chosen[10])
        folder = register(tmp_path, {"num_samples": 5}, rows[::-1])
        assert {record.prompt[0].content for record in read(folder).records} == set(chosen[5])
        assert len(read(folder, limit=3).records) == 3

    def test_more_than_there_are(self, tmp_path: Path) -> None:
        folder = register(tmp_path, {"num_samples": 5})
        assert sorted(record.answer or "" for record in read(folder).records).count("3") in (2, 3)
        assert len(read(folder).records) == 5


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"formating": "alpaca"}, "unknown key 'formating' Did you mean 'formatting'"),
        ({"formatting": "vicuna"}, "formatting: got 'vicuna'; one of alpaca, sharegpt, openai"),
        ({"columns": {"promt": "x"}}, "columns.promt: unknown; Did you mean 'prompt'"),
        ({"columns": {"prompt": 1}}, "columns.prompt: must be text"),
        ({"columns": []}, "columns: must be an object"),
        ({"columns": {"query": "x"}}, "columns: lacks 'prompt'"),
        ({"formatting": "sharegpt", "columns": {"prompt": "x"}}, "columns: lacks 'messages'"),
        ({"tags": {"user": "x"}}, "tags.user: unknown; Did you mean 'user_tag'"),
        ({"ranking": "yes"}, "ranking: must be true or false"),
        ({"ranking": True}, "ranking needs columns.chosen and columns.rejected"),
        ({"num_samples": 0}, "num_samples: must be a whole number above 0"),
        ({"file_name": 7}, "file_name: must be text"),
        ({"file_name": "row.json"}, "Did you mean 'rows.json'"),
        ({"file_name": None}, "names no place"),
        ({"file_name": None, "script_url": "x"}, "is not run"),
        ({"file_name": None, "cloud_file_name": "s3://x"}, "cloud storage is not read"),
        ({"columns": {"prompt": "x", "videos": "v"}}, "columns.videos: rows with videos are not supported"),
    ],
)
def test_faulty_entry(tmp_path: Path, entry: dict[str, Any], words: str) -> None:
    register(tmp_path, entry)
    with pytest.raises(DataError) as caught:
        read(tmp_path)
    assert words in str(caught.value)
    assert f"{tmp_path / 'dataset_info.json'}:5: 'mine'" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"a": {}\n,', "dataset_info.json:2: not valid JSON"),
        ("[]", "must hold one object"),
        ("[" * 100_000, "nested too deeply"),
        ('{"mine": 3}', "dataset_info.json:1: 'mine': must be an object"),
    ],
)
def test_faulty_register(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "dataset_info.json").write_text(text)
    with pytest.raises(DataError) as caught:
        read(tmp_path)
    assert words in str(caught.value)


SHARE = {"formatting": "sharegpt"}
RANK = {**SHARE, "ranking": True, "columns": {"messages": "conversations", "chosen": "c", "rejected": "r"}}
GOOD = {"from": "gpt", "value": "x"}


@pytest.mark.parametrize(
    ("entry", "row", "words"),
    [
        ({}, {"instruction": "q", "output": ""}, ":output: empty answer"),
        ({}, {"input": "q", "output": "a"}, ":instruction: missing field"),
        ({}, {"instruction": "", "input": " ", "output": "a"}, ":instruction: empty prompt"),
        ({}, {"instruction": 7, "output": "a"}, ":instruction: not text"),
        ({}, [1], "row is not an object"),
        ({"columns": {"prompt": "p", "history": "h"}}, {"p": "q", "h": "x"}, ":h: not a list of exchanges"),
        ({"columns": {"prompt": "p", "history": "h"}}, {"p": "q", "h": [["a"]]}, ":h[0]: not a pair"),
        ({"columns": {"prompt": "p", "history": "h"}}, {"p": "q", "h": [["a", ""]]}, ":h[0][1]: empty message"),
        (
            {"columns": {"prompt": "p", "response": "p", "kto_tag": "k"}},
            {"p": "q", "k": "true"},
            ":k: not a truth value",
        ),
        (SHARE, {"messages": []}, ":conversations: missing field (the row has messages)"),
        (SHARE, {"conversations": []}, ":conversations: not a list of messages"),
        (SHARE, {"conversations": [{"from": "human"}]}, ":conversations[0].value: missing field"),
        (SHARE, {"conversations": [{"from": "user", "value": "q"}]}, ":conversations[0].from: unknown role"),
        (SHARE, {"conversations": [GOOD]}, ":conversations[0]: roles out of order"),
        (SHARE, {"conversations": CHAT[:1]}, ":conversations: no answer"),
        (SHARE, {"conversations": [CHAT[0], CHAT[0]]}, ":conversations[1]: roles out of order"),
        (SHARE, {"conversations": [{"from": "system", "value": "s"}]}, ":conversations: empty prompt"),
        (SHARE, {"conversations": [{"from": "human", "value": None}]}, ":conversations[0].value: not text (got null"),
        (RANK, {"conversations": CHAT, "c": GOOD, "r": GOOD}, ":conversations: no open question"),
        (RANK, {"conversations": CHAT[:1], "c": GOOD}, ":r: missing field"),
        (RANK, {"conversations": CHAT[:1], "c": "text", "r": GOOD}, ":c: message is not an object"),
        (RANK, {"conversations": CHAT[:1], "c": CHAT[0], "r": GOOD}, ":c: not an answer"),
        (RANK, {"conversations": CHAT[:1], "c": GOOD, "r": {"from": "gpt", "value": " "}}, ":r.value: empty message"),
    ],
)
def test_faulty_row(tmp_path: Path, entry: dict[str, Any], row: object, words: str) -> None:
    register(tmp_path, entry, [row])
    with pytest.raises(DataError) as caught:
        read(tmp_path, require_answer="output" not in words or "empty answer" in words)
    assert f"rows.json:1{words}" in str(caught.value).replace("rows.json:1: row", "rows.json:1row")
