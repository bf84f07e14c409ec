"""A run's model card: what its directory says, as the facts of a card."""

from pathlib import Path
from typing import TYPE_CHECKING

from loratory.errors import RunError

if TYPE_CHECKING:
    from loratory.config import RunConfig
    from loratory.export.card import DataSource
    from loratory.run import RunDirectory


def run_card(directory: "RunDirectory", config: "RunConfig", merged: Path | None, licence: str | None) -> str:
    """The text of the card.

    Args:
        directory: The run.
        config: Its configuration.
        merged: A model merged from it, for the certificate.
        licence: Licence identifier.

    Raises:
        RunError: `merged` holds no certificate.
    """
    from loratory.adapter.certificate import read_certificate
    from loratory.export.card import CardFacts, model_card, read_scores
    from loratory.run import read_provenance

    provenance = read_provenance(directory.provenance)
    certificate = None if merged is None else read_certificate(merged)
    if merged is not None and certificate is None:
        raise RunError(f"{merged}: holds no merge certificate, so it is no model merged by loratory")
    adapter, train = config.adapter, config.train
    is_adapter = adapter.method != "full" and merged is None
    settings = {"method": adapter.method}
    if adapter.method == "lora":
        settings |= {"rank": str(adapter.rank), "alpha": f"{adapter.alpha or 2 * adapter.rank:g}"}
    settings |= {
        "learning rate": f"{train.learning_rate:g}",
        "epochs": f"{train.num_epochs:g}",
        "batch size": str(train.batch_size),
        "trainable parameters": f"{provenance.get('trainable_parameters', 0):,} of "
        f"{provenance.get('total_parameters', 0):,}",
    }
    return model_card(
        CardFacts(
            name=config.run.name,
            base=config.model.model_name_or_path,
            base_identity=str(provenance.get("base_identity")),
            objective=config.objective.name,
            is_adapter=is_adapter,
            settings=settings,
            data=_data_sources(config, _texts(provenance.get("data"))),
            versions=_texts(provenance.get("versions")),
            template=config.data.template,
            scores=read_scores(directory.predictions),
            certificate=certificate,
            licence=licence,
        )
    )


def _data_sources(config: "RunConfig", prints: dict[str, str]) -> "list[DataSource]":
    from loratory.data.sources import source_names
    from loratory.export.card import DataSource

    found = []
    for role, value in (("train", config.data.train), ("validation", config.data.validation)):
        names = source_names(value) if value is not None else ()
        for number, name in enumerate(names, start=1):
            key = role if len(names) == 1 else f"{role}.{number}"
            found.append(DataSource(role, name, prints.get(key, "unknown")))
    return found


def _texts(values: object) -> dict[str, str]:
    return {str(key): str(value) for key, value in values.items()} if isinstance(values, dict) else {}
