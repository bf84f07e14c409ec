"""(to be written by the data room) The interface that other rooms rely on."""

from typing import Protocol

from loratory.data.records import Record
from loratory.data.sequence import TokenSequence


class BoundTemplate(Protocol):
    """A prompt template bound to a tokenizer."""

    name: str
    stop_token_ids: tuple[int, ...]

    def generation_prompt(self, record: Record) -> list[int]:
        """Token ids of the prompt up to where the model begins to answer."""
        ...

    def sequence(self, record: Record) -> TokenSequence:
        """Token ids and weights of the whole row."""
        ...

    def contract(self) -> dict[str, object]:
        """What must be equal at inference: name, stop ids, and a hash over rendered probes (JSON-able)."""
        ...
