"""The text metric of a finished run: its answers to the scoring rows, kept as ordinary predictions of the run."""

from pathlib import Path

from loratory.compare.test_set import write_test_set
from loratory.config import RunConfig
from loratory.data.reader import read_section_rows
from loratory.errors import ConfigError
from loratory.evaluation.predictions import score_file, write_scores
from loratory.infer.predict import write_predictions
from loratory.infer.sampling import Sampling
from loratory.infer.session import open_session
from loratory.run import RunDirectory


def score_run(run_dir: Path, config: RunConfig, source: str, metric: str) -> float:
    """Answer the rows, write predictions and scores into the run directory, return one score.

    Args:
        run_dir: A finished run.
        config: Its configuration.
        source: The rows.
        metric: Name of the score, such as exact_match.

    Raises:
        ConfigError: The rows' answers have no such score, or the run gives no text.
        DataError: The rows cannot be used.
    """
    section, directory = config.data, RunDirectory.read(run_dir)
    records = read_section_rows(source, section).records
    if config.adapter.method == "full" or config.objective.name in ("reward", "classification"):
        raise ConfigError(f"sweep.metric: {metric} is of text answers by an adapter; take eval_loss for this run")
    session = open_session(
        config.model,
        directory.final_model,
        section.template,
        quantization=config.quantization,
        contract_file=directory.template,
    )
    drawn = config.predict
    sampling = (
        Sampling(temperature=drawn.temperature, top_p=drawn.top_p, top_k=drawn.top_k, seed=config.train.seed)
        if drawn.do_sample
        else None
    )
    predictions = session.predict(
        records, max_new_tokens=drawn.max_new_tokens, batch_size=drawn.batch_size, sampling=sampling
    )
    folder = directory.predictions / Path(source).stem
    write_predictions(folder / "generated_predictions.jsonl", predictions)
    write_test_set(folder, source, records)
    scores = score_file(
        folder / "generated_predictions.jsonl", long_answer_chars=config.evaluation.long_answer_chars
    ).scores
    write_scores(folder / "text_metrics.json", scores)
    if metric not in scores:
        raise ConfigError(f"sweep.metric: {metric} is not among the scores of {source}: {', '.join(scores)}")
    return float(scores[metric].value)
