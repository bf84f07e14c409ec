"""Closed sets of answers: where they come from, and the trie of their tokens."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from loratory.data.records import Record, Turn
from loratory.data.templates import BoundTemplate
from loratory.errors import ConfigError, DataError, TemplateError

MAX_AUTO_LABELS = 200
MIN_ROWS_PER_LABEL = 4
AUTO_RULE = (
    f"at most {MAX_AUTO_LABELS} distinct answers in the training rows, {MIN_ROWS_PER_LABEL} rows for each on average"
)


def closed_labels(answers: Iterable[str | None]) -> tuple[str, ...] | None:
    """The distinct answers, the most frequent first, then by text; None when they are no closed set (`AUTO_RULE`)."""
    counts = Counter(answer for answer in answers if answer and answer.strip())
    if not 2 <= len(counts) <= MAX_AUTO_LABELS or counts.total() < MIN_ROWS_PER_LABEL * len(counts):
        return None
    return tuple(sorted(counts, key=lambda text: (-counts[text], text)))


def read_labels(path: Path) -> tuple[str, ...]:
    """Read a file of labels: a JSON list of texts (`.json`), or one label a line.

    Raises:
        ConfigError: There is no such file.
        DataError: It is not UTF-8, not a list of texts, holds a label twice, or fewer than two.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(
            f"predict.labels: '{path}' cannot be read ({error.strerror}); give none, auto, or a file of labels"
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start} is not UTF-8; save the labels as UTF-8") from error
    if path.suffix == ".json":
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}: not JSON ({error}); a list of texts is needed") from error
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            raise DataError(f"{path}: labels are a JSON list of texts")
        labels = values
    else:
        labels = [line.rstrip("\r") for line in text.split("\n") if line.strip()]
    empty = [number for number, label in enumerate(labels, start=1) if not label.strip()]
    if empty:
        raise DataError(f"{path}: label {empty[0]} is empty")
    twice = [label for label, count in Counter(labels).items() if count > 1]
    if twice:
        raise DataError(f"{path}: {len(twice)} labels stand twice, first '{twice[0]}'")
    if len(labels) < 2:
        raise DataError(f"{path}: holds {len(labels)} labels; at least two are needed to choose from")
    return tuple(labels)


@dataclass(frozen=True, slots=True)
class LabelSet:
    """Labels and their tokens behind a prompt.

    Attributes:
        texts: The labels.
        token_ids: Their tokens as they are trained, the stop token last.
    """

    texts: tuple[str, ...]
    token_ids: tuple[tuple[int, ...], ...]

    @property
    def longest(self) -> int:
        """Tokens of the longest label."""
        return max(map(len, self.token_ids))


def bind_labels(texts: Sequence[str], template: BoundTemplate, record: Record) -> LabelSet:
    """Tokenise labels the way answers are trained.

    Args:
        texts: The labels.
        template: The template that prompts are made with.
        record: Any row; prompt and answer never share a token, so labels are the same behind each.

    Raises:
        TemplateError: The template has no stop token, or two labels have the same tokens.
    """
    if not template.stop_token_ids:
        raise TemplateError(
            f"template '{template.name}': no token ends an answer, so labels of different length cannot be compared; "
            "give the tokenizer an eos token or choose a template with a stop token"
        )
    token_ids = []
    for text in texts:
        turns = (*record.prompt, Turn("assistant", text))
        row = replace(record, turns=turns, fields={**record.fields, "output": text}, alternatives=(), label=None)
        sequence = template.sequence(row)
        ids = tuple(int(i) for i in sequence.token_ids[sequence.prompt_length :])
        # What follows the stop token (a line end in some templates) is never generated.
        end = next((place for place, i in enumerate(ids) if i in template.stop_token_ids), None)
        token_ids.append((*ids, template.stop_token_ids[0]) if end is None else ids[: end + 1])
    seen: dict[tuple[int, ...], str] = {}
    for text, ids in zip(texts, token_ids, strict=True):
        if seen.setdefault(ids, text) != text:
            raise TemplateError(f"labels '{seen[ids]}' and '{text}' have the same tokens; remove one")
    return LabelSet(tuple(texts), tuple(token_ids))


@dataclass(frozen=True, slots=True)
class Node:
    """A place in the trie of labels.

    Attributes:
        parent: The node before it; -1 for the root, which stands for the end of the prompt.
        token: Its token; -1 for the root.
        depth: Label tokens up to it, its own included.
        label: The label that ends here, or None.
        children: The nodes behind it.
    """

    parent: int
    token: int
    depth: int
    label: int | None
    children: tuple[int, ...]


def build_trie(labels: LabelSet) -> tuple[Node, ...]:
    """The trie of the labels' tokens; node 0 is the root. Labels end with a stop token, so all end at leaves."""
    parents, tokens, depths = [-1], [-1], [0]
    children: list[dict[int, int]] = [{}]
    label_at: dict[int, int] = {}
    for label, ids in enumerate(labels.token_ids):
        node = 0
        for token in ids:
            if token not in children[node]:
                children[node][token] = len(parents)
                parents.append(node)
                tokens.append(token)
                depths.append(depths[node] + 1)
                children.append({})
            node = children[node][token]
        label_at[node] = label
    return tuple(
        Node(parents[i], tokens[i], depths[i], label_at.get(i), tuple(children[i].values()))
        for i in range(len(parents))
    )
