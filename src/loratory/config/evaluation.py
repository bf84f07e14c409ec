"""Section `evaluation`: how answers and models are scored. Obeyed by `loratory.evaluation`."""

from pydantic import Field

from loratory.config.section import Section


class EvaluationConfig(Section):
    """What the scores count."""

    long_answer_chars: int = Field(10, ge=0, description="An answer is long above this many characters.")
