"""A model card: what was trained on what, how well it answers, and how far a merged model is from the adapter."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loratory.adapter.certificate import Certificate
from loratory.errors import IntegrityError

_SCORE_KEYS = ("value", "low", "high", "n")


@dataclass(frozen=True, slots=True)
class DataSource:
    """Rows that were used.

    Attributes:
        role: What for: train, validation.
        name: File or hub name, as the run file has it.
        sha256: Of its bytes.
    """

    role: str
    name: str
    sha256: str


@dataclass(frozen=True, slots=True)
class CardFacts:
    """What a card tells.

    Attributes:
        name: The run's name.
        base: The base model.
        base_identity: sha256 over its weights.
        objective: What was trained (sft, dpo, …).
        is_adapter: Whether the result is an adapter and not a whole model.
        settings: Label -> value of the settings that matter.
        data: The rows.
        versions: Library -> version.
        template: Name of the prompt template.
        scores: Name of a set of predictions -> its scores, as `text_metrics.json` holds them.
        certificate: Of a merged model, if there is one.
        licence: Licence identifier, if given.
        tags: Further tags.
    """

    name: str
    base: str
    base_identity: str
    objective: str
    is_adapter: bool
    settings: Mapping[str, str]
    data: Sequence[DataSource]
    versions: Mapping[str, str]
    template: str
    scores: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    certificate: Certificate | None = None
    licence: str | None = None
    tags: Sequence[str] = ()


def model_card(facts: CardFacts) -> str:
    """The card as Markdown with the hub's front matter; paths of this machine are left out."""
    kind = "adapter" if facts.is_adapter else "model"
    base = _public(facts.base)
    parts = [
        _front_matter(facts, base),
        f"# {facts.name}\n\nAn {kind} trained with loratory ({facts.objective}) on `{base}`."
        if facts.is_adapter
        else f"# {facts.name}\n\nA {kind} trained with loratory ({facts.objective}) from `{base}`.",
        _use(facts, base),
        "## Training\n\n" + _table(("setting", "value"), [(key, value) for key, value in facts.settings.items()]),
        "## Data\n\n"
        + _table(("use", "source", "sha256"), [(each.role, _public(each.name), each.sha256) for each in facts.data]),
        _scores(facts.scores),
        _certificate(facts.certificate),
        "## Made with\n\n"
        + _table(("library", "version"), list(facts.versions.items()))
        + f"\n\nBase identity (sha256 over its weights): `{facts.base_identity}`",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def read_scores(predictions: Path) -> dict[str, dict[str, Any]]:
    """Scores beside each set of predictions of a run: folder name -> scores.

    Raises:
        IntegrityError: A file of scores is none.
    """
    found: dict[str, dict[str, Any]] = {}
    for file in sorted(predictions.glob("*/text_metrics.json")):
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
            found[file.parent.name] = {name: {key: each[key] for key in _SCORE_KEYS} for name, each in values.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise IntegrityError(f"{file}: not a file of scores ({error!r}); run loratory predict again") from error
    return found


def _front_matter(facts: CardFacts, base: str) -> str:
    tags = ["loratory", facts.objective, *(["lora"] if facts.is_adapter else []), *facts.tags]
    lines = [f"base_model: {json.dumps(base)}", f"library_name: {'peft' if facts.is_adapter else 'transformers'}"]
    lines += ["pipeline_tag: text-generation", "tags:", *(f"- {json.dumps(tag)}" for tag in dict.fromkeys(tags))]
    names = [each.name for each in facts.data if "/" in each.name and each.name == _public(each.name)]
    names = [name for name in names if not Path(name).suffix]
    if names:
        lines += ["datasets:", *(f"- {json.dumps(name)}" for name in names)]
    if facts.licence is not None:
        lines.append(f"license: {json.dumps(facts.licence)}")
    return "\n".join(("---", *lines, "---"))


def _use(facts: CardFacts, base: str) -> str:
    if not facts.is_adapter:
        return ""
    code = (
        "from peft import PeftModel\n"
        "from transformers import AutoModelForCausalLM\n\n"
        f"model = AutoModelForCausalLM.from_pretrained({json.dumps(base)})\n"
        'model = PeftModel.from_pretrained(model, "THIS_REPOSITORY")'
    )
    return (
        f"It belongs to that base only, under the prompt template `{facts.template}`; under another one it answers "
        f"worse without any other sign.\n\n```python\n{code}\n```"
    )


def _scores(scores: Mapping[str, Mapping[str, Any]]) -> str:
    if not scores:
        return ""
    rows = [
        (name, metric, f"{each['value']:.2f}", f"{each['low']:.2f} to {each['high']:.2f}", str(each["n"]))
        for name, metrics in scores.items()
        for metric, each in metrics.items()
    ]
    return "## Scores\n\nPercent.\n\n" + _table(("rows", "metric", "value", "95 % interval", "n"), rows)


def _certificate(certificate: Certificate | None) -> str:
    if certificate is None:
        return ""
    measured, effect = certificate.measured, certificate.effect
    return (
        "## Merge certificate\n\n"
        f"Merged weights in {certificate.dtype}, measured against the adapter on its base over "
        f"{measured.num_positions} positions; beside it what the adapter does at all.\n\n"
        + _table(
            ("", "merged", "bare base"),
            [
                (
                    "largest logit difference",
                    f"{measured.max_logit_difference:.3g}",
                    f"{effect.max_logit_difference:.3g}",
                ),
                ("mean KL, nats", f"{measured.mean_kl_nats:.3g}", f"{effect.mean_kl_nats:.3g}"),
                ("same likeliest token", f"{measured.top1_agreement:.1%}", f"{effect.top1_agreement:.1%}"),
            ],
        )
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _public(source: str) -> str:
    """A hub name as it is; of a path its last part, since the rest says where somebody's files lie."""
    is_path = source.startswith(("/", ".", "~")) or source.count("/") > 1 or "\\" in source or Path(source).exists()
    return Path(source).name if is_path else source
