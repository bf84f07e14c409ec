"""The schema for editors and the reference page."""

import json
from typing import Any

from loratory.config import config_reference, config_schema, schema_to_json
from loratory.config.fields import config_fields, describe_type


def test_the_schema_names_every_field_and_refuses_others() -> None:
    schema = json.loads(schema_to_json(config_schema()))
    assert schema["$schema"].startswith("https://json-schema.org/")
    assert schema["additionalProperties"] is False
    assert set(schema["required"]) == {"model", "data"}
    named = set()

    def collect(prefix: str, definition: dict[str, Any]) -> None:
        assert definition["additionalProperties"] is False
        for name, inner in definition["properties"].items():
            if "$ref" in inner:
                collect(f"{prefix}{name}.", schema["$defs"][inner["$ref"].rsplit("/", 1)[1]])
            else:
                named.add(prefix + name)

    collect("", schema)
    assert named == set(config_fields())


def test_the_reference_names_every_field() -> None:
    page = config_reference()
    for field in config_fields().values():
        assert f"| `{field.name}` |" in page
    assert "| `rank` | a whole number | `8` |" in page
    assert "| `train` | text or a list of text | required |" in page


def test_types_are_described_in_words() -> None:
    fields = config_fields()
    assert fields["adapter.targets"].allowed == "text or a list of text"
    assert fields["train.schedule"].allowed == "one of linear, cosine, constant"
    assert fields["run.trackers"].allowed == "a list of tensorboard, wandb, mlflow, trackio"
    assert fields["adapter.rank_pattern"].allowed == "a mapping of text to a whole number"
    assert fields["train.max_steps"].allowed == "a whole number or null"
    assert describe_type(bool) == "true or false"


def test_every_field_says_what_it_means() -> None:
    silent = [key for key, field in config_fields().items() if not field.description]
    assert silent == ["train.adam_beta1", "train.adam_beta2", "train.adam_epsilon"]
