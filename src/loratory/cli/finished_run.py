"""A finished run as something to evaluate or to serve."""

import json
from typing import TYPE_CHECKING

from loratory.engine.finished_run import trained_model
from loratory.errors import IntegrityError

if TYPE_CHECKING:
    from loratory.config import RunConfig
    from loratory.evaluation.subject import SubjectSource
    from loratory.run import RunDirectory


def run_subject(directory: "RunDirectory", config: "RunConfig") -> "SubjectSource":
    """The run's model as something to evaluate.

    Raises:
        IntegrityError: The run's template contract cannot be read.
    """
    from loratory.evaluation.subject import SubjectSource

    model, adapter_dir = trained_model(directory, config, base=False)
    try:
        contract = json.loads(directory.template.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise IntegrityError(f"{directory.template}: the template contract cannot be read ({error})") from error
    return SubjectSource(
        "run", str(directory.path), model, adapter_dir, config.data.template, contract, config.quantization
    )
