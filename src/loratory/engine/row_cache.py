"""Tokenised rows on disk: made once, taken back by every later start and every rank that asks for the very same.

The name of an entry is a digest of everything that shapes the rows: bytes of the sources, what the template makes of
probe conversations, the tokenizer, all options, and the code itself. An entry is whole or absent, its files are
compared with their digests when it is read, and a damaged one is made anew. The folder may be deleted at any time.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import loratory
from loratory.config import DataConfig
from loratory.data.sequence import TokenSequence
from loratory.data.templates import BoundTemplate
from loratory.engine.prepare import PreparedRows
from loratory.errors import IntegrityError, RunError
from loratory.objective.row import Row
from loratory.run.commit import publish_directory
from loratory.run.manifest import MANIFEST_NAME, Manifest, describe_files, to_json, verify
from loratory.run.stage import discard

CACHE_NAME = ".tokens"

_NO_EFFECT = {"test", "token_cache", "mix_strategy", "mix_weights"}
_META = "rows.json"
_ARRAYS = ("tokens", "weights", "sequences", "rows", "counts")


@dataclass(frozen=True, slots=True)
class RowKey:
    """What an entry stands for.

    Attributes:
        parts: Name -> digest: data, template, options, objective, code.
    """

    parts: Mapping[str, str]

    @property
    def name(self) -> str:
        """Folder name of the entry."""
        return _digest(dict(self.parts))


def row_key(
    section: DataConfig,
    template: BoundTemplate,
    objective: Mapping[str, object],
    fingerprints: Mapping[str, str],
) -> RowKey:
    """The key of the rows that a configuration leads to.

    Args:
        section: The configuration's data section.
        template: The bound template.
        objective: The configuration's objective section as plain values.
        fingerprints: Role -> sha256 of the source.
    """
    options = {key: value for key, value in section.model_dump(mode="json").items() if key not in _NO_EFFECT}
    return RowKey(
        {
            "data": _digest(dict(fingerprints)),
            "template": template.encoding_sha256(),
            "options": _digest(options),
            "objective": _digest(dict(objective)),
            "code": code_sha256(),
        }
    )


@cache
def code_sha256() -> str:
    """SHA-256 over the source of the rooms that make rows, and the versions of the libraries they stand on."""
    root = Path(loratory.__file__).parent
    digest = hashlib.sha256("\n".join(version(name) for name in ("tokenizers", "transformers", "jinja2")).encode())
    for path in sorted(
        [*(root / "data").rglob("*.py"), *(root / "objective").rglob("*.py"), root / "engine/prepare.py"]
    ):
        digest.update(path.read_bytes())
    digest.update(Path(__file__).read_bytes())
    return digest.hexdigest()


class RowCache:
    """The entries in one folder.

    Args:
        folder: Where they are; made when the first one is stored.
        note: Shows one line.
    """

    def __init__(self, folder: Path, *, note: Callable[[str], None]) -> None:
        self._folder = folder
        self._note = note

    def load(self, key: RowKey, *, may_discard: bool = True) -> PreparedRows | None:
        """The rows of an entry; None if there is none or it is damaged.

        Args:
            key: What is wanted.
            may_discard: Whether a damaged entry is said and removed; off where another process does it.
        """
        entry = self._folder / key.name
        if not entry.is_dir():
            return None
        try:
            if dict(verify(entry).identity) != dict(key.parts):
                raise IntegrityError(f"{entry}: made for something else")
            return _read(entry)
        except (IntegrityError, OSError, ValueError, KeyError) as error:
            if may_discard:
                self._note(f"tokenised rows are made anew: {error}")
                discard(entry)
            return None

    def store(self, key: RowKey, rows: PreparedRows) -> None:
        """Keep rows; a full disk or a process that was faster is no fault."""

        def write(stage: Path) -> None:
            _write(stage, rows)
            manifest = Manifest(run_id="", step=0, parent_step=0, identity=dict(key.parts), files=describe_files(stage))
            (stage / MANIFEST_NAME).write_text(to_json(manifest), encoding="utf-8")

        try:
            publish_directory(self._folder / key.name, write)
        except RunError:
            return
        except OSError as error:
            self._note(f"tokenised rows were not kept in {self._folder}: {error.strerror or error}")


def _write(stage: Path, rows: PreparedRows) -> None:
    all_rows = (*rows.train, *rows.validation)
    sequences = [sequence for row in all_rows for sequence in (*row.sequences, *row.companions)]
    places = [row.origin.rpartition(":") for row in all_rows]
    files = list(dict.fromkeys(file for file, _, _ in places))
    file_number = {file: number for number, file in enumerate(files)}
    arrays: dict[str, npt.NDArray[Any]] = {
        "tokens": np.concatenate([sequence.token_ids for sequence in sequences]),
        "weights": np.concatenate([sequence.weights for sequence in sequences]),
        "sequences": np.array([(len(each), each.prompt_length) for each in sequences], dtype=np.int64),
        "rows": np.array(
            [
                (len(row.sequences), file_number[file], int(line), len(row.companions))
                for row, (file, _, line) in zip(all_rows, places, strict=True)
            ],
            dtype=np.int64,
        ),
        "counts": np.array([row.count for row in all_rows], dtype=np.float64),
    }
    for name, array in arrays.items():
        np.save(stage / f"{name}.npy", array, allow_pickle=False)
    meta = {
        "files": files,
        "num_train": len(rows.train),
        "source_sizes": rows.source_sizes,
        "fingerprints": dict(rows.fingerprints),
        "notes": rows.notes,
        "facts": {
            i: {name: v.tolist() for name, v in row.facts.items()} for i, row in enumerate(all_rows) if row.facts
        },
        "texts": {i: dict(row.texts) for i, row in enumerate(all_rows) if row.texts},
    }
    (stage / _META).write_text(json.dumps(meta), encoding="utf-8")


def _read(entry: Path) -> PreparedRows:
    meta = json.loads((entry / _META).read_text(encoding="utf-8"))
    # Mapped copy-on-write: ranks of one machine share the pages, and nothing reaches the file.
    tokens, weights, sequences, rows, counts = (
        np.asarray(np.load(entry / f"{name}.npy", mmap_mode="c", allow_pickle=False)) for name in _ARRAYS
    )
    made = _rows(_sequences(tokens, weights, sequences), rows.tolist(), counts.tolist(), meta)
    num_train = meta["num_train"]
    return PreparedRows(
        train=tuple(made[:num_train]),
        validation=tuple(made[num_train:]),
        source_sizes=tuple(meta["source_sizes"]),
        fingerprints=meta["fingerprints"],
        notes=tuple(meta["notes"]),
    )


def _sequences(
    tokens: npt.NDArray[np.int64], weights: npt.NDArray[np.float32], table: npt.NDArray[np.int64]
) -> list[TokenSequence]:
    ends = np.cumsum(table[:, 0]).tolist()
    starts = [0, *ends[:-1]]
    prompts = table[:, 1].tolist()
    return [
        TokenSequence(tokens[start:end], weights[start:end], prompt)
        for start, end, prompt in zip(starts, ends, prompts, strict=True)
    ]


def _rows(
    sequences: Sequence[TokenSequence], table: Sequence[Sequence[int]], counts: Sequence[float], meta: Mapping[str, Any]
) -> list[Row]:
    made, start = [], 0
    files, all_facts, all_texts = meta["files"], meta["facts"], meta["texts"]
    for index, ((num_sequences, file, line, num_companions), count) in enumerate(zip(table, counts, strict=True)):
        facts = {name: np.asarray(v, dtype=np.float64) for name, v in all_facts.get(str(index), {}).items()}
        own = tuple(sequences[start : start + num_sequences])
        start += num_sequences
        companions = tuple(sequences[start : start + num_companions])
        made.append(Row(own, f"{files[file]}:{line}", count, facts, all_texts.get(str(index), {}), companions))
        start += num_companions
    return made


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode("utf-8", "surrogatepass")).hexdigest()
