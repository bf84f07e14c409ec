"""Texts for perplexity: the joining rule of each layout, and clear words when a text is not to be had."""

from pathlib import Path

import pytest

from loratory.errors import DataError
from loratory.evaluation.corpus import read_corpus


def test_wikitext_rows_keep_their_line_ends_and_blank_ones_are_empty(tmp_path: Path) -> None:
    file = tmp_path / "w.raw"
    file.write_text(" \n = Title = \n \n Text . \n", "utf-8")
    corpus = read_corpus(f"wikitext2:{file}")
    assert corpus.text == "\n\n".join(["", " = Title = \n", "", " Text . \n"])
    assert (corpus.name, corpus.join, corpus.source) == ("wikitext2", "\n\n", str(file))


def test_penn_treebank_rows_are_stripped_sentences(tmp_path: Path) -> None:
    (tmp_path / "ptb").mkdir()
    (tmp_path / "ptb" / "ptb.valid.txt").write_text(" no it was n't \n <unk> said \n", "utf-8")
    assert read_corpus("ptb", data_dir=tmp_path).text == "no it was n't\n\n<unk> said"


def test_a_plain_file_is_scored_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes("naïve\r\n\n text".encode())
    corpus = read_corpus(str(file))
    assert (corpus.text, corpus.join, corpus.num_bytes) == ("naïve\r\n\n text", None, 14)


@pytest.mark.parametrize("name", ["wikitext2", "ptb"])
def test_offline_without_a_local_copy_the_error_says_what_to_give(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"--text {name}:FILE, or --data-dir FOLDER with {name}"):
        read_corpus(name, data_dir=tmp_path)


def test_an_unknown_name_is_answered_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Did you mean 'wikitext2'"):
        read_corpus("wikitext")
    with pytest.raises(DataError, match="cannot be read"):
        read_corpus(f"ptb:{tmp_path / 'none.txt'}")
    (tmp_path / "empty.txt").write_text(" \n", "utf-8")
    with pytest.raises(DataError, match="no text to score"):
        read_corpus(str(tmp_path / "empty.txt"))
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    with pytest.raises(DataError, match="byte 3 is not UTF-8"):
        read_corpus(str(tmp_path / "latin.txt"))


def test_the_published_file_gives_the_rows_of_the_hub(shared_data: Path) -> None:
    text = read_corpus("wikitext2", data_dir=shared_data).text
    assert text.startswith("\n\n = Robert Boulter = \n\n\n\n\n Robert Boulter is an English film")
    # 4,358 rows, 4,357 joins of two characters, and every blank row is empty.
    assert text.count("\n\n") >= 4357
