"""Recovering a pruned model: train an adapter, then leave the whole recovered model in the documented layout.

OUTPUT/{checkpoint-N, final_model, lora_adapter, merged_model, pruned_model.bin}; the run directory of any training
with three more entries. Law kept: the whole model is merged with a certificate, and each entry is complete or absent,
so that a stop at any moment is mended by running again.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

from accelerate import PartialState
from rich.console import Console

from loratory.adapter.certificate import FILE_NAME as CERTIFICATE_NAME
from loratory.adapter.merge import merge_adapter
from loratory.config import ModelConfig, RunConfig
from loratory.engine.result import TrainingResult
from loratory.engine.training import run_training
from loratory.model.load import load_model
from loratory.model.pickle_file import write_pickled
from loratory.model.save import PICKLE_NAME
from loratory.run.commit import publish_directory

ADAPTER_NAME = "lora_adapter"
MERGED_NAME = "merged_model"


@dataclass(frozen=True, slots=True)
class RecoveredModel:
    """What recovery left.

    Attributes:
        training: The training run.
        adapter: PEFT adapter with the tokenizer's files.
        merged: The whole model as a folder, with its certificate.
        pickled: The whole model as `pruned_model.bin`.
        is_main: Whether this process wrote them; the others of a launch have nothing more to do.
    """

    training: TrainingResult
    adapter: Path
    merged: Path
    pickled: Path
    is_main: bool


def recover_model(
    config: RunConfig, *, resume: bool = False, overwrite: bool = False, console: Console | None = None
) -> RecoveredModel:
    """Train what the configuration says on a pruned model, and write the recovered model beside.

    Args:
        config: The whole run, with method lora.
        resume: Go on where an earlier call stopped: in training, or in what follows it.
        overwrite: Throw away a run of this name.
        console: Where progress is shown; default: standard error.

    Raises:
        LoratoryError: As training, merging and writing raise it.
    """
    training = run_training(config, resume=resume, overwrite=overwrite, console=console)
    folder = training.run_dir
    found = RecoveredModel(
        training=training,
        adapter=folder / ADAPTER_NAME,
        merged=folder / MERGED_NAME,
        pickled=folder / PICKLE_NAME,
        is_main=bool(PartialState().is_main_process),
    )
    if not found.is_main:
        return found
    if not found.adapter.is_dir():
        publish_directory(found.adapter, lambda stage: _copy(training.final_model, stage))
    if not (found.merged / CERTIFICATE_NAME).is_file():
        merge_adapter(config.model, training.final_model, found.merged)
    if not found.pickled.is_file():
        merged = load_model(ModelConfig(model_name_or_path=str(found.merged)), device="cpu")
        write_pickled(merged.model, merged.tokenizer, found.pickled)
    return found


def _copy(source: Path, stage: Path) -> None:
    shutil.copytree(source, stage, dirs_exist_ok=True)
