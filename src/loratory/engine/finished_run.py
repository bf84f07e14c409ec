"""A finished run, opened for use: its directory, its configuration, its model ready to answer or to talk.

Rooms are imported where they are used, because commands name this module before they need a model.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from loratory.engine.libraries import load_libraries
from loratory.errors import ConfigError, IntegrityError, RunError

if TYPE_CHECKING:
    from loratory.config import ModelConfig, PredictConfig, RunConfig
    from loratory.infer.chat import Chat
    from loratory.infer.sampling import Sampling
    from loratory.infer.session import Session
    from loratory.run import RunDirectory


def open_run(path: Path, overrides: Sequence[str] = ()) -> tuple["RunDirectory", "RunConfig"]:
    """A finished run and its configuration, with `section.key=value` overrides applied.

    Raises:
        RunError: It is no run, or it is not finished.
    """
    if not path.is_dir():
        raise RunError(f"{path}: no such run directory; `loratory train` prints where it wrote")
    from loratory.config import read_config
    from loratory.run import RunDirectory

    directory = RunDirectory.read(path)
    if not directory.is_finished:
        raise RunError(f"{path}: this run has no final model yet; finish it with: loratory train RUN.yaml --resume")
    return directory, read_config(directory.config, overrides).config


def open_run_session(
    directory: "RunDirectory", config: "RunConfig", *, base: bool, force_template: bool, trust_remote_code: bool
) -> "Session":
    """The run's model with its template; `base` leaves out what was trained."""
    load_libraries()
    from loratory.infer.session import open_session

    model, adapter_dir = trained_model(directory, config, base=base)
    return open_session(
        model,
        adapter_dir,
        config.data.template,
        quantization=config.quantization,
        contract_file=directory.template,
        force_template=force_template,
        trust_remote_code=trust_remote_code,
        labels=_labels(directory, config),
    )


def open_chat(
    path: Path,
    *,
    max_new_tokens: int | None = None,
    system: str | None = None,
    base: bool = False,
    force_template: bool = False,
    trust_remote_code: bool = False,
) -> "Chat":
    """A conversation with a finished run, as its configuration has it unless said otherwise.

    Args:
        path: The run directory.
        max_new_tokens: Longest answer; None: as in `predict`.
        system: System prompt; None: that of the training data.
        base: Leave out what was trained.
        force_template: Go on with another template or tokenizer than was trained with.
        trust_remote_code: Run code from the model's folder.

    Raises:
        RunError: It is no run, or it is not finished.
        ConfigError: Its model does not talk.
    """
    directory, config = open_run(path)
    if config.objective.name == "classification":
        raise ConfigError(f"{path}: a classification model names classes and does not talk; use loratory predict")
    session = open_run_session(
        directory, config, base=base, force_template=force_template, trust_remote_code=trust_remote_code
    )
    from loratory.infer.chat import Chat

    return Chat(
        session,
        system=system if system is not None else config.data.system,
        max_new_tokens=max_new_tokens or config.predict.max_new_tokens,
        sampling=run_sampling(config.predict, seed=config.train.seed),
    )


def check_answers(directory: "RunDirectory", config: "RunConfig") -> None:
    """Refuse a run whose model does not answer.

    Raises:
        ConfigError: It is a reward model.
    """
    if config.objective.name == "reward":
        raise ConfigError(
            f"{directory.path}: a reward model gives scores, not answers. Use it in objective.rollout.reward_model, or "
            "by loratory.infer.reward_model.load_reward_model"
        )


def _labels(directory: "RunDirectory", config: "RunConfig") -> list[str]:
    """Names of the classes that a classification run learnt, in their order; none for other runs."""
    check_answers(directory, config)
    if config.objective.name != "classification":
        return []
    file = directory.final_model / "config.json"
    try:
        found = json.loads(file.read_text(encoding="utf-8"))["id2label"]
        return [found[str(index)] for index in range(len(found))]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise IntegrityError(f"{file}: does not name the classes of this run ({error!r})") from error


def trained_model(directory: "RunDirectory", config: "RunConfig", *, base: bool) -> "tuple[ModelConfig, Path | None]":
    """Model and adapter folder of the run; `base` leaves out what was trained."""
    is_full = config.adapter.method == "full"
    trained = directory.final_model
    whole_model = config.model.model_copy(
        update={"model_name_or_path": str(trained), "gguf_file": None, "revision": None, "tokenizer_name_or_path": None}
    )
    return (whole_model if is_full and not base else config.model), (None if is_full or base else trained)


def run_sampling(section: "PredictConfig", *, seed: int) -> "Sampling | None":
    """How answers are drawn; None takes the likeliest token."""
    from loratory.infer.sampling import Sampling

    if not section.do_sample:
        return None
    return Sampling(temperature=section.temperature, top_p=section.top_p, top_k=section.top_k, seed=seed)
