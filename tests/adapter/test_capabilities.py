"""The shipped capability file says what the installed PEFT does: a sample of it is measured again."""

import json
from pathlib import Path

import pytest
from docs.method_probes import KINDS, probe
from docs.methods import CAPABILITIES_FILE, PAGE, page

from loratory.config.method_capabilities import capabilities

# Low rank, orthogonal, silently wrong on packed weights, virtual tokens.
SAMPLE = ("lora", "oft", "hra", "prompt_tuning")
FACTS = ("gradient", "saves", "nf4", "int8", "multiples_of_8", "odd", *KINDS)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("method", SAMPLE)
def test_a_row_is_what_is_measured(method: str) -> None:
    shipped, found = capabilities()[method], probe(method, is_timed=False)
    assert {fact: found[fact] for fact in FACTS} == {fact: shipped[fact] for fact in FACTS}
    assert {fact: found[fact] for fact in ("options", "trainable", "path")} == {
        fact: shipped[fact] for fact in ("options", "trainable", "path")
    }
    assert (found["merge"] is False) == (shipped["merge"] is False)
    assert found["merge"] < 1e-5
    assert (found["start"] < 1e-5) == (shipped["start"] < 1e-5)


def test_the_page_is_that_of_the_file() -> None:
    assert Path(CAPABILITIES_FILE).read_text(encoding="utf-8") == json.dumps(capabilities(), indent=1) + "\n"
    assert PAGE.read_text(encoding="utf-8") == page(capabilities())
