"""What each adapter method was found able to do, read from a generated file: combinations that cannot work are refused.

`python -m docs.methods` measures it; docs/methods.md shows it.
"""

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

FILE_NAME = "adapter_capabilities.json"
# Methods that do nearly the same; the first that fits is the nearest. LoRA goes nearly everywhere.
_KINDS = (
    ("oft", "boft", "hra", "psoft", "road"),
    ("vera", "pvera", "randlora", "ia3", "unilora", "vblora", "tinylora"),
    ("prompt_tuning", "p_tuning", "prefix_tuning", "cartridge", "cpt", "adaption_prompt"),
    ("loha", "lokr", "hira"),
    ("shira", "supertuning", "fourierft", "waveft", "c3a"),
)


@cache
def capabilities() -> Mapping[str, Mapping[str, Any]]:
    """Method -> facts, as docs/methods.md explains them."""
    text = (files("loratory.config") / FILE_NAME).read_text(encoding="utf-8")
    found: Mapping[str, Mapping[str, Any]] = json.loads(text)
    return found


def works(method: str, fact: str) -> bool:
    """Whether a method was found able; full fine-tuning is able to everything but train quantised weights."""
    if method == "full":
        return fact not in ("nf4", "int8")
    return bool(capabilities().get(method, {}).get(fact, True))


def nearest_method(method: str, *facts: str) -> str:
    """The method most like this one that was found able to all of the facts."""
    alike = next((kind for kind in _KINDS if method in kind), ())
    able = (name for name in alike if name != method and all(works(name, fact) for fact in facts))
    return next(able, "lora")


def quantised_fault(method: str, *, load_in_4bit: bool, load_in_8bit: bool) -> str | None:
    """Why a method cannot be trained on the base as it is kept, or None."""
    if not (load_in_4bit or load_in_8bit):
        return None
    fact, words = ("nf4", "4") if load_in_4bit else ("int8", "8")
    if works(method, fact):
        return None
    near = nearest_method(method, fact)
    name = "full fine-tuning" if method == "full" else method
    return (
        f"adapter.method: {name} cannot be trained on a base in {words} bits; the nearest that can is {near}, or "
        "switch quantization off"
    )


def family_fault(method: str, fact: str, *, kind: str) -> str | None:
    """Why a method cannot be trained on a kind of model, or None.

    Args:
        method: Its name.
        fact: The capability that the model needs.
        kind: The model, for people.
    """
    if works(method, fact):
        return None
    return (
        f"adapter.method: {method} cannot be trained on {kind}; the nearest that can is {nearest_method(method, fact)}"
    )
