"""Field templates: fixed prompt texts with {instruction} and {input} slots, as alpaca-lora's JSON files have them.

The built-in texts are Stanford Alpaca's and alpaca-lora's (Apache-2.0), character for character. A field template
knows one exchange; a system text, when a row has one, stands before the prompt with an empty line between.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from string import Formatter

from loratory.data.records import Record
from loratory.data.segments import Segment, SegmentEncoder
from loratory.errors import TemplateError, suggest

_KEYS = ("description", "prompt_input", "prompt_no_input", "response_split")


@dataclass(frozen=True, slots=True)
class FieldTemplate:
    """The texts of a field template.

    Attributes:
        description: What it is, for people.
        prompt_input: Prompt of a row with an input; slots {instruction} and {input}.
        prompt_no_input: Prompt of a row without one; slot {instruction}.
        response_split: Text after which an answer begins, for reading generated text.
    """

    description: str
    prompt_input: str
    prompt_no_input: str
    response_split: str

    def __post_init__(self) -> None:
        for key, slots in (("prompt_input", {"instruction", "input"}), ("prompt_no_input", {"instruction"})):
            found = {slot for _, slot in _parts(getattr(self, key), key) if slot is not None}
            if found != slots:
                raise TemplateError(
                    f"{key}: has slots {sorted(found) or 'none'}, needs exactly {sorted(slots)}; "
                    "write '{{' and '}}' for braces that are text"
                )

    def fill(self, instruction: str, input_text: str) -> str:
        """The prompt of one row; an empty input takes the form without one."""
        key = "prompt_input" if input_text else "prompt_no_input"
        values = {"instruction": instruction, "input": input_text}
        return "".join(text + (values[slot] if slot else "") for text, slot in _parts(getattr(self, key), key))


def _parts(text: str, key: str) -> list[tuple[str, str | None]]:
    try:
        parts = [(literal, slot, spec, conversion) for literal, slot, spec, conversion in Formatter().parse(text)]
    except ValueError as error:
        raise TemplateError(f"{key}: {error}; write '{{{{' and '}}}}' for braces that are text") from None
    if any(spec or conversion for _, _, spec, conversion in parts):
        raise TemplateError(f"{key}: slots are plain {{instruction}} and {{input}}, without ':' or '!'")
    return [(literal, slot) for literal, slot, _, _ in parts]


_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request."
)
_WITHOUT_INPUT = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request."
)
_EXCHANGE_INPUT = "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
_EXCHANGE = "### Instruction:\n{instruction}\n\n### Response:\n"

BUILT_IN: dict[str, FieldTemplate] = {
    "alpaca": FieldTemplate(
        "Template used by Alpaca-LoRA.",
        f"{_WITH_INPUT}\n\n{_EXCHANGE_INPUT}",
        f"{_WITHOUT_INPUT}\n\n{_EXCHANGE}",
        "### Response:",
    ),
    "alpaca_legacy": FieldTemplate(
        "Legacy template, used by Original Alpaca repository.",
        f"{_WITH_INPUT}\n\n{_EXCHANGE_INPUT}".removesuffix("\n"),
        f"{_WITHOUT_INPUT}\n\n{_EXCHANGE}".removesuffix("\n"),
        "### Response:",
    ),
    "alpaca_short": FieldTemplate(
        "A shorter template to experiment with.", _EXCHANGE_INPUT, _EXCHANGE, "### Response:"
    ),
    "vigogne": FieldTemplate(
        "French template, used by Vigogne for finetuning.",
        "Ci-dessous se trouve une instruction qui décrit une tâche, associée à une entrée qui fournit un contexte "
        "supplémentaire. Écrivez une réponse qui complète correctement la demande.\n\n"
        "### Instruction:\n{instruction}\n\n### Entrée:\n{input}\n\n### Réponse:\n",
        "Ci-dessous se trouve une instruction qui décrit une tâche. Écrivez une réponse qui complète correctement la "
        "demande.\n\n### Instruction:\n{instruction}\n\n### Réponse:\n",
        "### Réponse:",
    ),
}


def read_field_template(path: Path) -> FieldTemplate:
    """Read an alpaca-lora template file.

    Raises:
        TemplateError: If the file is missing, not JSON, or its keys are not exactly the four known ones.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise TemplateError(f"data.template: cannot read '{path}': {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise TemplateError(f"data.template: '{path}' is not a JSON file in UTF-8: {error}") from None
    if not isinstance(values, dict):
        raise TemplateError(f"data.template: '{path}' must hold one object with {', '.join(_KEYS)}")
    faults = [f"missing key '{key}'" for key in _KEYS if key not in values]
    faults += [f"unknown key '{key}'{suggest(key, _KEYS)}" for key in values if key not in _KEYS]
    faults += [f"'{key}' is not text" for key in _KEYS if key in values and not isinstance(values[key], str)]
    if faults:
        raise TemplateError(f"data.template: '{path}': {'; '.join(faults)}. Keys are exactly {', '.join(_KEYS)}.")
    try:
        return FieldTemplate(**values)
    except TemplateError as error:
        raise TemplateError(f"data.template: '{path}': {error}") from None


class FieldLayout:
    """Lays records out with a field template, or with none: the bare prompt, directly followed by the answer.

    Args:
        template: The prompt texts; None for the bare prompt.
        encoder: Marks control strings in row text.
        stop_token_id: The tokenizer's end of sequence.
        add_eos_token: Whether the stop token follows the answer.
    """

    def __init__(
        self, template: FieldTemplate | None, encoder: SegmentEncoder, *, stop_token_id: int, add_eos_token: bool
    ) -> None:
        self.definition = repr(template)
        self.stop_token_ids: tuple[int, ...] = (stop_token_id,)
        self._template = template
        self._encoder = encoder
        self.has_stop_token = add_eos_token

    def lay_out(self, record: Record, *, with_answer: bool) -> tuple[list[Segment], list[Segment]]:
        """The filled-in prompt, after the system text if there is one; the answer and, if trained, the stop token."""
        return [self._prompt(record)], self._answer(record) if with_answer else []

    def _prompt(self, record: Record) -> Segment:
        turns = record.prompt
        system = turns[0].content + "\n\n" if turns[0].role == "system" else ""
        asked = turns[1:] if system else turns
        if len(asked) != 1 or asked[0].role != "user":
            raise TemplateError("knows one user message and one answer, not longer conversations; use template 'chat'")
        if self._template is None:
            text = self._encoder.mark(system + asked[0].content, is_answer=False)
        else:
            instruction, input_text = asked[0].content, ""
            if "instruction" in record.fields:
                instruction, input_text = record.fields["instruction"], record.fields.get("input", "")
            text = self._encoder.mark(system, is_answer=False) + self._template.fill(
                self._encoder.mark(instruction, is_answer=False), self._encoder.mark(input_text, is_answer=False)
            )
        return Segment(text, trained=False, is_first=True)

    def _answer(self, record: Record) -> list[Segment]:
        assert record.answer is not None
        body = Segment(self._encoder.mark(record.answer, is_answer=True), trained=True)
        stop = Segment("", trained=True, token_id=self.stop_token_ids[0])
        return [body, stop] if self.has_stop_token else [body]
