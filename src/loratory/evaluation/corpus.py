"""Texts for perplexity: one long string, made by a stated rule from a file, a known corpus or a hub data set.

The rule by which rows are joined is part of the result, because it changes the number.
"""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from loratory.data.table_source import HubDataset, hub_rows
from loratory.errors import DataError, MissingExtraError, suggest

ROW_JOIN = "\n\n"


@dataclass(frozen=True, slots=True)
class Corpus:
    """A text to score.

    Attributes:
        name: As the user named it.
        text: All of it.
        join: What stands between its rows; None when the text is one file as it is.
        source: The file or hub name it came from.
        sha256: Of the text's UTF-8 bytes.
    """

    name: str
    text: str
    join: str | None
    source: str
    sha256: str

    @property
    def num_bytes(self) -> int:
        """Bytes of the text in UTF-8."""
        return len(self.text.encode("utf-8"))


@dataclass(frozen=True, slots=True)
class _Known:
    """A corpus known by name: where it usually lies, how a file of it is read, where the hub has it."""

    files: tuple[str, ...]
    rows: Callable[[str], list[str]]
    hub: HubDataset
    column: str


def _wikitext_rows(text: str) -> list[str]:
    """Lines with their line end, blank ones empty: the rows of the hub's data set."""
    return [f"{line}\n" if line.strip() else "" for line in text.removesuffix("\n").split("\n")]


def _sentence_rows(text: str) -> list[str]:
    """One sentence a line, stripped: the rows of the hub's data set."""
    return [line.strip() for line in text.removesuffix("\n").split("\n")]


_WIKITEXT = HubDataset("Salesforce/wikitext", split="test", subset="wikitext-2-raw-v1", folder=None)
_PTB = "ptb-text-only/ptb_text_only"
CORPORA = {
    "wikitext2": _Known(
        ("wikitext2/wiki.test.raw", "wikitext-2-raw/wiki.test.raw", "wiki.test.raw"), _wikitext_rows, _WIKITEXT, "text"
    ),
    # The validation part, as LLM-Pruner and GPTQ score it under this name.
    "ptb": _Known(
        ("ptb/ptb.valid.txt", "ptb/valid.txt", "ptb.valid.txt"),
        _sentence_rows,
        HubDataset(_PTB, split="validation", subset="penn_treebank", folder=None),
        "sentence",
    ),
    "ptb_test": _Known(
        ("ptb/ptb.test.txt", "ptb/test.txt", "ptb.test.txt"),
        _sentence_rows,
        HubDataset(_PTB, split="test", subset="penn_treebank", folder=None),
        "sentence",
    ),
}


def read_corpus(name: str, *, data_dir: Path | None = None) -> Corpus:
    """Read a text.

    Args:
        name: `wikitext2`, `ptb` (its validation part), `ptb_test`: from `data_dir`, else from the hub;
            `NAME:FILE`, a local file in that corpus's layout; a text file, scored as it is; or
            `owner/name:SPLIT:COLUMN`, a column of a hub data set, its rows joined by a blank line.
        data_dir: Folder with local copies, such as `wikitext2/wiki.test.raw` and `ptb/ptb.valid.txt`.

    Raises:
        DataError: There is no such text, it is empty or not UTF-8, or the hub cannot be reached.
        MissingExtraError: The hub is needed and `datasets` is not installed.
    """
    known, _, file = name.partition(":")
    if known in CORPORA:
        path = Path(file) if file else _local_copy(CORPORA[known], data_dir)
        if path is not None:
            return _joined(known, CORPORA[known].rows(_read_text(path)), source=str(path))
        return _from_hub(known, CORPORA[known].hub, CORPORA[known].column, advice=_advice(known))
    if Path(name).is_file():
        text = _read_text(Path(name))
        return _checked(Corpus(Path(name).name, text, None, name, _sha256(text)))
    repository, *rest = name.split(":")
    if repository.count("/") == 1 and len(rest) == 2 and all(rest):
        hub = HubDataset(repository, split=rest[0], subset=None, folder=None)
        return _from_hub(name, hub, rest[1], advice="Without a network, give the path of a text file instead")
    raise DataError(
        f"{name}: no such text.{suggest(name, list(CORPORA))} Give the path of a UTF-8 text file, one of "
        f"{', '.join(CORPORA)} (or NAME:FILE for a local copy of it), or owner/name:SPLIT:COLUMN on the hub"
    )


def _local_copy(known: _Known, data_dir: Path | None) -> Path | None:
    if data_dir is None:
        return None
    return next((data_dir / file for file in known.files if (data_dir / file).is_file()), None)


def _advice(name: str) -> str:
    return (
        f"Give a local copy: --text {name}:FILE, or --data-dir FOLDER with {CORPORA[name].files[0]} in it; "
        "or score another text: --text FILE"
    )


def _from_hub(name: str, hub: HubDataset, column: str, *, advice: str) -> Corpus:
    rows = []
    try:
        for number, row in hub_rows(hub, name):
            value = row.get(column) if isinstance(row, dict) else None
            if not isinstance(value, str):
                have = ", ".join(row) if isinstance(row, dict) else "no columns"
                raise DataError(f"{name}: row {number} of '{hub.name}' has no text in '{column}'; it has {have}")
            rows.append(value)
    except DataError as error:
        raise DataError(f"{error}\n{advice}") from error
    except MissingExtraError as error:
        raise MissingExtraError(f"Reading '{name}' from the hub ({advice})", "datasets") from error
    return _joined(name, rows, source=f"{hub.name}:{hub.split}")


def _joined(name: str, rows: Iterable[str], *, source: str) -> Corpus:
    text = ROW_JOIN.join(rows)
    return _checked(Corpus(name, text, ROW_JOIN, source, _sha256(text)))


def _checked(corpus: Corpus) -> Corpus:
    if not corpus.text.strip():
        raise DataError(f"{corpus.source}: holds no text to score")
    return corpus


def _read_text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start} is not UTF-8; save the text as UTF-8") from error


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
