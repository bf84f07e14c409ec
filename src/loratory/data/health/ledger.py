"""Rows as two 8-byte digests each: enough to find duplicates and conflicting answers among millions."""

import hashlib
from array import array
from bisect import bisect_right
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from loratory.data.records import Record

EXAMPLES = 5


@dataclass(frozen=True, slots=True)
class Finding:
    """One kind of fault.

    Attributes:
        count: Rows it concerns.
        examples: The first few, as text with places.
    """

    count: int
    examples: tuple[str, ...] = ()


class RowLedger:
    """Digests and places of the rows seen, in order. Costs 24 bytes a row."""

    def __init__(self) -> None:
        self._prompts = array("Q")
        self._answers = array("Q")
        self._lines = array("Q")
        self._files: list[str] = []
        self._starts: list[int] = []

    def __len__(self) -> int:
        return len(self._lines)

    def add(self, record: Record) -> int:
        """Note a row and return its prompt's digest."""
        file = record.origin.file
        if not self._files or self._files[-1] != file:
            self._files.append(file)
            self._starts.append(len(self._lines))
        prompt = int(record.prompt_key[:16], 16)
        self._prompts.append(prompt)
        self._answers.append(text_digest(answer_text(record)))
        self._lines.append(record.origin.line)
        return prompt

    def place(self, index: int) -> str:
        """`file:line` of a row by its number."""
        return f"{self._files[bisect_right(self._starts, index) - 1]}:{self._lines[index]}"

    def prompts(self) -> npt.NDArray[np.uint64]:
        """Prompt digests in row order, uint64 [rows]."""
        return np.frombuffer(self._prompts, dtype=np.uint64) if self._prompts else np.empty(0, np.uint64)

    def duplicates(self) -> Finding:
        """Rows whose prompt (up to case and spaces) and answer an earlier row has."""
        order, same_prompt, same_answer = self._sorted()
        repeated = np.flatnonzero(same_prompt & same_answer) + 1
        firsts = _group_starts(same_prompt & same_answer)
        pairs = sorted((int(order[i]), int(order[firsts[i]])) for i in repeated)
        return Finding(len(pairs), self._examples(pairs, "repeats"))

    def conflicts(self) -> Finding:
        """Rows whose prompt has different answers, all of them counted."""
        order, same_prompt, same_answer = self._sorted()
        starts = _group_starts(same_prompt)
        change = np.flatnonzero(same_prompt & ~same_answer) + 1
        groups = np.unique(starts[change])
        sizes = np.bincount(starts, minlength=len(order))
        first_change = {int(starts[i]): int(i) for i in change[::-1]}
        pairs = sorted((int(order[first_change[int(g)]]), int(order[g])) for g in groups)
        return Finding(int(sizes[groups].sum()), self._examples(pairs, "answers otherwise than"))

    def num_answers(self) -> int:
        """Number of different answers."""
        return len(set(self._answers))

    def _sorted(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """Row numbers by (prompt, answer, number), and whether each equals the next in prompt and in answer."""
        prompts = self.prompts()
        answers = np.frombuffer(self._answers, dtype=np.uint64) if self._answers else np.empty(0, np.uint64)
        order = np.lexsort((answers, prompts))
        return order, prompts[order][1:] == prompts[order][:-1], answers[order][1:] == answers[order][:-1]

    def _examples(self, pairs: list[tuple[int, int]], verb: str) -> tuple[str, ...]:
        return tuple(f"{self.place(later)} {verb} {self.place(earlier)}" for later, earlier in pairs[:EXAMPLES])


def answer_text(record: Record) -> str:
    """The row's answer; of a preference pair both."""
    answer = record.answer
    return answer if answer is not None else "\x1f".join(record.alternatives)


def text_digest(text: str) -> int:
    """An 8-byte digest of a text, equal on every machine."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def _group_starts(equals_next: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """For each of n sorted items, the position where its run of equals begins."""
    is_start = np.concatenate(([True], ~equals_next)) if len(equals_next) else np.ones(1, dtype=bool)
    positions = np.where(is_start, np.arange(len(is_start)), 0)
    return np.maximum.accumulate(positions)
