"""Prompt templates by name: how a row's text becomes tokens, for training, prediction and chat alike."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from transformers import PreTrainedTokenizerBase

from loratory.data.bound_template import SegmentTemplate
from loratory.data.chat_template import ChatLayout, chat_template_source
from loratory.data.field_template import BUILT_IN, FieldLayout, FieldTemplate, read_field_template
from loratory.data.records import Record
from loratory.data.segments import SegmentEncoder
from loratory.data.sequence import TokenSequence
from loratory.data.template_file import read_turn_template
from loratory.data.turn_catalogue import TURN_TEMPLATES, catalogue_name
from loratory.data.turn_template import TurnLayout, TurnTemplate
from loratory.errors import TemplateError, suggest

TEMPLATE_NAMES = ("auto", "chat", "plain", *BUILT_IN, *TURN_TEMPLATES)


class BoundTemplate(Protocol):
    """A prompt template bound to a tokenizer.

    Attributes:
        name: The resolved name ('chat' or 'alpaca' where 'auto' was asked for).
        stop_token_ids: Ids at which generation ends.
    """

    name: str
    stop_token_ids: tuple[int, ...]

    def generation_prompt(self, record: Record) -> list[int]:
        """Token ids of the prompt up to where the model begins to answer."""
        ...

    def sequence(self, record: Record) -> TokenSequence:
        """Token ids and weights of the whole row."""
        ...

    def sequences(self, records: Sequence[Record]) -> list[TokenSequence]:
        """As `sequence` for many records, tokenised together."""
        ...

    def contract(self) -> dict[str, object]:
        """What must be equal at inference: name, stop ids, hashes over rendered probes and tokenizer (JSON-able)."""
        ...

    def encoding_sha256(self) -> str:
        """SHA-256 over all that decides what `sequence` makes of a record."""
        ...


def bind_template(
    name: str,
    tokenizer: PreTrainedTokenizerBase,
    *,
    train_on_inputs: bool = False,
    add_eos_token: bool = True,
    closes_prompt: bool = False,
) -> BoundTemplate:
    """Bind a template to a tokenizer.

    Args:
        name: 'auto' (the tokenizer's chat template if it has one, else 'alpaca'), 'chat', 'plain' (prompt directly
            followed by the answer), a name of the catalogue ('alpaca', 'chatml', 'llama3', …), or the path of an
            alpaca-lora template JSON or of a turn template YAML.
        tokenizer: The model's tokenizer.
        train_on_inputs: Give prompt tokens weight 1 too; the very first token never has weight.
        add_eos_token: Put the stop token after the final answer and train it.
        closes_prompt: End prompts with what the tokenizer itself puts behind a text, as encoders are used to.

    Raises:
        TemplateError: If the name is unknown, the file is malformed, or the tokenizer lacks what the template needs.
    """
    if name == "auto":
        name = "chat" if tokenizer.chat_template else "plain" if closes_prompt else "alpaca"
    if name == "chat":
        source = chat_template_source(tokenizer)
        if not source:
            raise TemplateError(
                "data.template: 'chat' needs a tokenizer with a chat template and this one has none. "
                f"Choose one of {', '.join(name for name in TEMPLATE_NAMES if name not in ('auto', 'chat'))}."
            )
        encoder = SegmentEncoder(tokenizer, scaffold=source)
        try:
            chat = ChatLayout(tokenizer, encoder, add_eos_token=add_eos_token)
        except TemplateError as error:
            raise TemplateError(f"data.template: 'chat': {error}.") from None
        closing = encoder.closing_ids if closes_prompt else ()
        return SegmentTemplate(name, chat, encoder=encoder, train_on_inputs=train_on_inputs, closing_ids=closing)
    template = _named_template(name)
    if isinstance(template, TurnTemplate):
        return _bind_turns(
            name,
            template,
            tokenizer,
            train_on_inputs=train_on_inputs,
            add_eos_token=add_eos_token,
            closes_prompt=closes_prompt,
        )
    # Encoders such as BERT end a text with their separator.
    end_id = tokenizer.sep_token_id if tokenizer.eos_token_id is None and closes_prompt else tokenizer.eos_token_id
    if end_id is None:
        raise TemplateError(
            f"data.template: '{name}' ends answers with the EOS token and the tokenizer has none. "
            "Set tokenizer.eos_token in the model's tokenizer_config.json."
        )
    scaffold = f"{template.prompt_input}{template.prompt_no_input}" if template else ""
    encoder = SegmentEncoder(tokenizer, scaffold=scaffold)
    layout = FieldLayout(template, encoder, stop_token_id=end_id, add_eos_token=add_eos_token)
    return SegmentTemplate(
        name,
        layout,
        encoder=encoder,
        train_on_inputs=train_on_inputs,
        opening_ids=encoder.opening_ids,
        closing_ids=encoder.closing_ids if closes_prompt else (),
    )


def _bind_turns(
    name: str,
    template: TurnTemplate,
    tokenizer: PreTrainedTokenizerBase,
    *,
    train_on_inputs: bool,
    add_eos_token: bool,
    closes_prompt: bool,
) -> SegmentTemplate:
    encoder = SegmentEncoder(tokenizer, scaffold=template.scaffold)
    try:
        layout = TurnLayout(template, encoder, tokenizer=tokenizer, add_eos_token=add_eos_token)
    except TemplateError as error:
        raise TemplateError(f"data.template: '{name}': {error}.") from None
    return SegmentTemplate(
        catalogue_name(name) or name,
        layout,
        encoder=encoder,
        train_on_inputs=train_on_inputs,
        opening_ids=encoder.opening_ids,
        closing_ids=encoder.closing_ids if closes_prompt else (),
    )


def _named_template(name: str) -> FieldTemplate | TurnTemplate | None:
    """The template of a name or file; None for 'plain'."""
    if name == "plain":
        return None
    if name in BUILT_IN:
        return BUILT_IN[name]
    if (known := catalogue_name(name)) is not None:
        return TURN_TEMPLATES[known]
    if name.endswith((".yaml", ".yml")):
        return read_turn_template(Path(name))
    if name.endswith(".json") or Path(name).is_file():
        return read_field_template(Path(name))
    raise TemplateError(
        f"data.template: '{name}' is unknown.{suggest(name, TEMPLATE_NAMES)} Names: {', '.join(TEMPLATE_NAMES)}; "
        "or the path of a template file (.json as alpaca-lora has them, .yaml with turns)."
    )
