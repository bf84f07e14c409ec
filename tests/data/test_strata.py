"""Expressions that rows are balanced by: a fixed list of steps, nothing evaluated."""

import pytest

from loratory.data.records import Origin, Record, Turn
from loratory.data.strata import parse_stratum
from loratory.errors import ConfigError, DataError

ROW = {"instruction": "How much is it?", "input": "x" * 20, "output": "Intro_111|9.9|activate_98", "tags": ["a"]}
RECORD = Record((Turn("user", "How much is it?"), Turn("assistant", "intro_111")), Origin("f.json", 3))


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("input", "x" * 20),
        ("output:prefix(_)", "Intro"),
        ("output:first(|)", "Intro_111"),
        ("output:first(|):prefix(_):lower", "intro"),
        ("output:last(_)", "98"),
        ("output:count(|)", "2"),
        ("input:length(0,20,50)", "20-49"),
        ("input:length(0,21,50)", "0-20"),
        ("input:length(5,10)", "10+"),
        ("instruction:words(0,4)", "4+"),
        ("output:prefix(:)", "Intro_111|9.9|activate_98"),
        ("source", "f.json"),
        ("prompt", "How much is it?"),
        ("answer:prefix(_)", "intro"),
        ("script", "Latin"),
    ],
)
def test_expressions(expression: str, expected: str) -> None:
    assert parse_stratum(expression).of(RECORD, ROW) == expected


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("output:prefx(_)", "Did you mean 'prefix'"),
        ("output:prefix", "needs the mark"),
        ("output:prefix()", "needs the mark"),
        ("input:length(20,0)", "rising order"),
        ("input:length(a)", "rising order"),
        ("output:prefix(_", "needs the mark"),
        ("output:__import__('os')", "cannot read"),
        (":prefix(_)", "names no field"),
    ],
)
def test_what_does_not_fit_is_refused(expression: str, said: str) -> None:
    with pytest.raises(ConfigError, match="--by") as refused:
        parse_stratum(expression)
    assert said in str(refused.value)


def test_a_missing_field_names_place_and_nearest() -> None:
    with pytest.raises(DataError, match=r"f\.json:3: .*no field 'outptu'.*Did you mean 'output'"):
        parse_stratum("outptu").of(RECORD, ROW)
    with pytest.raises(DataError, match="a list or an object"):
        parse_stratum("tags").of(RECORD, ROW)
