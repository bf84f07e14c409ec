"""Section `objective.classification`: the classes of texts. Obeyed by `loratory.objective.classification`."""

from pydantic import Field

from loratory.config.section import Section


class ClassificationConfig(Section):
    """Which classes there are."""

    labels: list[str] | str | None = Field(
        None,
        description="Names of the classes in their order, or a text file with one name per line; default: the "
        "distinct answers of the training rows, sorted.",
    )
