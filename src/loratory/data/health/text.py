"""Text as the doctor compares it: words, scripts, control markers."""

import re
from collections import Counter
from functools import cache

from loratory.data.records import Record

# Scripts written without spaces: each character counts as a word.
_DENSE = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\uac00-\ud7af\u0e00-\u0e7f\U00020000-\U0003ffff"
_ASCII_LETTER = re.compile("[A-Za-z]")
_ASCII_WORD = re.compile(r"[0-9a-z_]+")
_WORD = re.compile(rf"[{_DENSE}]|[^\W{_DENSE}]+")

_BLOCKS: tuple[tuple[int, int, str], ...] = (
    (0x0041, 0x024F, "Latin"),
    (0x1E00, 0x1EFF, "Latin"),
    (0x0370, 0x03FF, "Greek"),
    (0x0400, 0x052F, "Cyrillic"),
    (0x0530, 0x058F, "Armenian"),
    (0x0590, 0x05FF, "Hebrew"),
    (0x0600, 0x077F, "Arabic"),
    (0x08A0, 0x08FF, "Arabic"),
    (0x0900, 0x097F, "Devanagari"),
    (0x0980, 0x0DFF, "other Indic"),
    (0x0E00, 0x0E7F, "Thai"),
    (0x10A0, 0x10FF, "Georgian"),
    (0x1100, 0x11FF, "Hangul"),
    (0x3040, 0x30FF, "Kana"),
    (0x3400, 0x4DBF, "Han"),
    (0x4E00, 0x9FFF, "Han"),
    (0xAC00, 0xD7AF, "Hangul"),
    (0xF900, 0xFAFF, "Han"),
    (0x20000, 0x3FFFF, "Han"),
)
_SCRIPT_SAMPLE = 400

CONTROL_MARKERS = (
    "<|im_start|>",
    "<|im_end|>",
    "<|endoftext|>",
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|user|>",
    "<|assistant|>",
    "<|system|>",
    "<|end|>",
    "<start_of_turn>",
    "<end_of_turn>",
    "<bos>",
    "<eos>",
    "<s>",
    "</s>",
    "<pad>",
    "<unk>",
    "[INST]",
    "[/INST]",
    "<<SYS>>",
    "<</SYS>>",
    "### Instruction:",
    "### Response:",
)
"""Turn and control marks of widely used templates: in row text they are forged, or left over from a conversion."""

ODD_CHARACTER = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufffd\u202a-\u202e\u2066-\u2069]")
"""Control characters, the replacement character of a failed decoding, and marks that reverse the direction of text."""


def words(text: str) -> list[str]:
    """Words of a text without case and punctuation; in scripts without spaces, each character is one."""
    if text.isascii():
        return _ASCII_WORD.findall(text.lower())
    return _WORD.findall(text.casefold())


def question_of(record: Record) -> str:
    """What the row asks: the prompt's turns without the system text, which many rows share."""
    turns = record.turns if record.is_text else record.prompt
    if len(turns) == 1:
        return turns[0].content
    return "\n".join(turn.content for turn in turns if turn.role != "system")


def script_of(text: str) -> str:
    """The script that most letters of a text's beginning are in, by Unicode block; 'none' without letters."""
    if text.isascii():
        return "Latin" if _ASCII_LETTER.search(text, 0, _SCRIPT_SAMPLE) else "none"
    scripts: Counter[str] = Counter()
    for character, count in Counter(text[:_SCRIPT_SAMPLE]).items():
        script = _script(character)
        if script:
            scripts[script] += count
    return min(scripts, key=lambda name: (-scripts[name], name)) if scripts else "none"


@cache
def _script(character: str) -> str:
    """Script of a letter; empty for what is no letter."""
    if not character.isalpha():
        return ""
    code = ord(character)
    return next((name for first, last, name in _BLOCKS if first <= code <= last), "other")


class MarkerSearch:
    """Finds control markers in text.

    Args:
        tokens: Markers beyond the known ones: the tokenizer's special tokens.
    """

    def __init__(self, tokens: tuple[str, ...] = ()) -> None:
        markers = sorted({*CONTROL_MARKERS, *filter(None, tokens)}, key=lambda text: (-len(text), text))
        self._pattern = re.compile("|".join(map(re.escape, markers)))
        # One cheap look for a first character spares most texts the search.
        self._begins = re.compile(f"[{re.escape(''.join(sorted({marker[0] for marker in markers})))}]")

    def find(self, text: str) -> str | None:
        """The first marker in the text, or None."""
        first = self._begins.search(text)
        match = self._pattern.search(text, first.start()) if first else None
        return match[0] if match else None
