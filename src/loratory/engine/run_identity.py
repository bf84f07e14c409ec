"""What must be the same for a run to be continued: configuration, base, data, template. Differences are listed."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

from loratory.config import RunConfig
from loratory.errors import IntegrityError

# Where things are, how often they are written, and how a batch is cut into passes may change on resume; what the
# files hold is compared by content.
_FREE_KEYS = {
    "model": {"model_name_or_path", "tokenizer_name_or_path", "gguf_file", "revision"},
    "data": {"train", "validation", "test", "dataset_dir", "token_cache"},
    "train": {
        "micro_batch_size",
        "max_tokens_per_micro_batch",
        "memory_budget_gib",
        "probe",
        "gradient_checkpointing",
        "num_threads",
        "logging_steps",
        "save_steps",
        "save_total_limit",
    },
}
_FREE_SECTIONS = {"predict", "evaluation", "run"}
_SHOWN = 120
_ABSENT = "(absent)"


@dataclass(frozen=True, slots=True)
class RunIdentity:
    """Everything that resume compares.

    Attributes:
        config: Dotted key -> value of every key that shapes the result.
        base: sha256 of the base model's weights.
        data: Role (train, validation) -> sha256 of the source.
        template: The template contract.
    """

    config: Mapping[str, object]
    base: str
    data: Mapping[str, str]
    template: Mapping[str, object]

    def to_json(self) -> dict[str, object]:
        """In full, for the checkpoint."""
        return {
            "config": dict(self.config),
            "base": self.base,
            "data": dict(self.data),
            "template": dict(self.template),
        }

    def digests(self) -> dict[str, str]:
        """One sha256 per part, for the manifest."""
        return {name: _digest(value) for name, value in self.to_json().items()}

    def refuse_changes(self, saved: Mapping[str, object]) -> None:
        """Compare with what a checkpoint was written under.

        Raises:
            IntegrityError: Listing every difference.
        """
        now = _flat(json.loads(json.dumps(self.to_json())))
        then = _flat(saved)
        pairs = {key: (then.get(key, _ABSENT), now.get(key, _ABSENT)) for key in sorted(now.keys() | then.keys())}
        differences = [
            f"  {key.removeprefix('config.')}: {_short(old)} then, {_short(new)} now"
            for key, (old, new) in pairs.items()
            if old != new
        ]
        if differences:
            raise IntegrityError(
                "this run cannot be continued, because what it was started with has changed:\n"
                + "\n".join(differences)
                + "\nRestore these, or start a new run under another run.name."
            )


def relevant_config(config: RunConfig) -> dict[str, object]:
    """Dotted key -> value of every configuration key that shapes the result."""
    content = config.model_dump(mode="json")
    for section in _FREE_SECTIONS:
        del content[section]
    for section, keys in _FREE_KEYS.items():
        content[section] = {key: value for key, value in content[section].items() if key not in keys}
    return _flat(content)


def _flat(value: object, prefix: str = "") -> dict[str, object]:
    if not isinstance(value, Mapping) or not value:
        return {prefix: value}
    flat: dict[str, object] = {}
    for key, inner in value.items():
        flat |= _flat(inner, f"{prefix}.{key}" if prefix else str(key))
    return flat


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"
