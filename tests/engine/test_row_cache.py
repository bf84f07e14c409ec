"""Tokenised rows on disk: what comes back is what went in; what changed or is damaged does not come back."""

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from loratory.config import DataConfig, RunConfig
from loratory.data.templates import bind_template
from loratory.engine import row_cache
from loratory.engine.prepare import PreparedRows, data_fingerprints, prepare_rows
from loratory.engine.row_cache import CACHE_NAME, RowCache, RowKey, row_key
from loratory.engine.training import run_training
from loratory.objective import SftObjective

SFT = {"name": "sft"}


@pytest.fixture
def section(rows_file: Path) -> DataConfig:
    return DataConfig(train=str(rows_file), template="alpaca", val_size=5, cutoff_len=80, truncation="truncate")


@pytest.fixture
def rows(section: DataConfig, tiny_tokenizer: PreTrainedTokenizerFast) -> PreparedRows:
    return prepare_rows(section, bind_template("alpaca", tiny_tokenizer), SftObjective())


def plain(rows: PreparedRows) -> list[object]:
    """Rows as values that compare."""
    return [
        [
            (
                row.origin,
                row.count,
                [(s.token_ids.tolist(), s.weights.tolist(), s.prompt_length) for s in row.sequences],
            )
            for row in part
        ]
        for part in (rows.train, rows.validation)
    ] + [rows.source_sizes, dict(rows.fingerprints), rows.notes]


def key_of(section: DataConfig, tokenizer: PreTrainedTokenizerFast, **options: bool) -> RowKey:
    template = bind_template(section.template, tokenizer, **options)
    return row_key(section, template, SFT, data_fingerprints(section))


class TestEntries:
    def test_round_trip(self, rows: PreparedRows, tmp_path: Path) -> None:
        said: list[str] = []
        cache = RowCache(tmp_path / "tokens", note=said.append)
        key = RowKey({"data": "x"})
        assert cache.load(key) is None
        cache.store(key, rows)
        cache.store(key, rows)  # a second writer finds it there
        loaded = cache.load(key)
        assert loaded is not None
        assert plain(loaded) == plain(rows)
        assert loaded.validation
        assert any("lost the start" in note for note in loaded.notes)
        assert said == []
        assert cache.load(RowKey({"data": "y"})) is None
        loaded.train[0].sequences[0].token_ids[0] = 7  # a copy: the file stays
        again = cache.load(key)
        assert again is not None
        assert plain(again) == plain(rows)

    @pytest.mark.parametrize("name", ["tokens.npy", "weights.npy", "counts.npy", "rows.json", "MANIFEST.json"])
    @pytest.mark.parametrize("harm", ["flip", "cut", "remove"])
    def test_a_damaged_entry_is_said_and_removed(
        self, rows: PreparedRows, tmp_path: Path, name: str, harm: str
    ) -> None:
        said: list[str] = []
        cache = RowCache(tmp_path, note=said.append)
        key = RowKey({"data": "x"})
        cache.store(key, rows)
        file = tmp_path / key.name / name
        content = bytearray(file.read_bytes())
        if harm == "remove":
            file.unlink()
        elif harm == "cut":
            file.write_bytes(content[:-1])
        else:
            content[len(content) // 2] ^= 1
            file.write_bytes(content)
        assert cache.load(key, may_discard=False) is None
        assert (said, file.parent.exists()) == ([], True)
        assert cache.load(key) is None
        assert len(said) == 1
        assert "made anew" in said[0]
        assert not file.parent.exists()
        cache.store(key, rows)
        assert cache.load(key) is not None

    def test_an_entry_under_a_wrong_name(self, rows: PreparedRows, tmp_path: Path) -> None:
        cache = RowCache(tmp_path, note=lambda _: None)
        right, wrong = RowKey({"data": "x"}), RowKey({"data": "y"})
        cache.store(right, rows)
        (tmp_path / right.name).rename(tmp_path / wrong.name)
        assert cache.load(wrong) is None

    def test_no_room_is_no_fault(self, rows: PreparedRows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        said: list[str] = []
        monkeypatch.setattr(row_cache, "publish_directory", full)
        RowCache(tmp_path, note=said.append).store(RowKey({}), rows)
        assert said == [f"tokenised rows were not kept in {tmp_path}: No space left on device"]


class TestKey:
    def test_equal_when_nothing_changed(
        self, section: DataConfig, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
    ) -> None:
        tiny_tokenizer.save_pretrained(tmp_path)
        other = PreTrainedTokenizerFast.from_pretrained(tmp_path)
        assert key_of(section, tiny_tokenizer) == key_of(section, other)

    @pytest.mark.parametrize(
        "change",
        [
            {"cutoff_len": 81},
            {"truncation": "drop"},
            {"val_size": 6},
            {"system": "Be brief."},
            {"template": "alpaca_short"},
            {"template": "chat"},
            {"max_samples": 4},
        ],
    )
    def test_options(
        self, section: DataConfig, tiny_tokenizer: PreTrainedTokenizerFast, change: dict[str, object]
    ) -> None:
        changed = DataConfig(**{**section.model_dump(), **change})
        assert key_of(section, tiny_tokenizer).name != key_of(changed, tiny_tokenizer).name

    def test_training_choices(self, section: DataConfig, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
        keys = {
            key_of(section, tiny_tokenizer).name,
            key_of(section, tiny_tokenizer, train_on_inputs=True).name,
            key_of(section, tiny_tokenizer, add_eos_token=False).name,
        }
        assert len(keys) == 3

    def test_bytes_tokenizer_template_and_code(
        self,
        section: DataConfig,
        tiny_tokenizer: PreTrainedTokenizerFast,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        section = DataConfig(train=str(tmp_path / "rows.json"), template="chat")
        Path(str(section.train)).write_text('[{"instruction": "a", "output": "b"}]')
        keys = [key_of(section, tiny_tokenizer)]
        Path(str(section.train)).write_text('[{"instruction": "a", "output": "c"}]')
        keys.append(key_of(section, tiny_tokenizer))
        # No probe has a tool turn, so only the template's own text can tell.
        tiny_tokenizer.chat_template += "{% if messages[-1].role == 'tool' %}!{% endif %}"
        keys.append(key_of(section, tiny_tokenizer))
        tiny_tokenizer.add_tokens(["<new>"])
        keys.append(key_of(section, tiny_tokenizer))
        monkeypatch.setattr(row_cache, "code_sha256", lambda: "other")
        keys.append(key_of(section, tiny_tokenizer))
        changed = [{name for name in a.parts if a.parts[name] != b.parts[name]} for a, b in pairwise(keys)]
        assert changed == [{"data"}, {"template"}, {"template"}, {"code"}]


class TestRuns:
    def test_second_start_reads_and_trains_alike(
        self, make_config: Callable[..., RunConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        runs = []
        for name in ("first", "second"):
            result = run_training(make_config({"run.name": name, "train.max_steps": 3, "train.logging_steps": 1}))
            runs.append((result.run_dir / "metrics.jsonl", capsys.readouterr().err))
        assert "from the cache" not in runs[0][1]
        assert "tokenised rows: from the cache" in runs[1][1]
        first, second = ([json.loads(line)["loss"] for line in file.read_text().splitlines()] for file, _ in runs)
        assert first == second
        assert len(list((tmp_path / "outputs" / CACHE_NAME).iterdir())) == 1

    def test_switched_off(self, make_config: Callable[..., RunConfig], tmp_path: Path) -> None:
        run_training(make_config({"data.token_cache": False, "train.max_steps": 1}))
        assert not (tmp_path / "outputs" / CACHE_NAME).exists()
