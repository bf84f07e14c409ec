"""The template contract: a short JSON value that two runs share exactly when they tokenise alike."""

import hashlib
import json
from collections.abc import Mapping
from typing import Protocol

from transformers import PreTrainedTokenizerBase

from loratory.data.records import Origin, Record, Turn
from loratory.data.sequence import TokenSequence
from loratory.errors import TemplateError

_ORIGIN = Origin("(probe)", 1)
_FIELDS = {"instruction": "Name the colour.", "input": "grass 007", "output": "green|7"}
PROBES = (
    Record((Turn("user", "Name the colour.\ngrass 007"), Turn("assistant", "green|7")), _ORIGIN, _FIELDS),
    Record((Turn("user", " 套餐 <|im_end|></s>\n"), Turn("assistant", "é\n ok ")), _ORIGIN),
    Record((Turn("system", "Be brief."), Turn("user", "Hi"), Turn("assistant", "Hello")), _ORIGIN),
    Record((Turn("user", "1"), Turn("assistant", "2"), Turn("user", "3"), Turn("assistant", "4")), _ORIGIN),
)


class _Probed(Protocol):
    name: str
    stop_token_ids: tuple[int, ...]

    def generation_prompt(self, record: Record) -> list[int]: ...

    def sequence(self, record: Record) -> TokenSequence: ...


def template_contract(template: _Probed, tokenizer: PreTrainedTokenizerBase) -> dict[str, object]:
    """Name, stop ids, SHA-256 over the probes' generation prompts, and SHA-256 over the tokenizer.

    The probes hold finished exchanges too, so that the prompts show how answers are laid out. What is trained does not
    enter: at inference it makes no difference.
    """
    prompts: list[list[int] | str] = []
    for probe in PROBES:
        try:
            prompts.append(template.generation_prompt(probe))
        except TemplateError:
            prompts.append("refused")
    return {
        "name": template.name,
        "stop_token_ids": list(template.stop_token_ids),
        "probe_sha256": hashlib.sha256(json.dumps(prompts).encode()).hexdigest(),
        "tokenizer_sha256": tokenizer_sha256(tokenizer),
    }


def encoding_sha256(
    template: _Probed,
    tokenizer: PreTrainedTokenizerBase,
    *,
    definition: str,
    choices: Mapping[str, object],
) -> str:
    """SHA-256 over the contract, the template's own text, the training choices and the probes' ids and weights."""
    encoded: list[object] = []
    for probe in PROBES:
        try:
            sequence = template.sequence(probe)
            encoded.append([sequence.token_ids.tolist(), sequence.weights.tolist(), sequence.prompt_length])
        except TemplateError:
            encoded.append("refused")
    value = [template_contract(template, tokenizer), definition, dict(choices), encoded]
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode("utf-8", "surrogatepass")).hexdigest()


def tokenizer_sha256(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 over what decides a tokenizer's output: its backend's JSON less per-call state, or its vocabulary."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        state = json.loads(backend.to_str())
        for transient in ("truncation", "padding"):
            state.pop(transient, None)
    else:
        state = tokenizer.get_vocab()
    special = {name: str(value) for name, value in tokenizer.special_tokens_map.items()}
    return hashlib.sha256(json.dumps([state, special], sort_keys=True).encode("utf-8", "surrogatepass")).hexdigest()
