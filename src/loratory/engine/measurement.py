"""A run's own forecast at its start, and what it measured at its end, side by side in plan.json."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from loratory.config import RunConfig
from loratory.engine.artefacts import ModelArtefacts
from loratory.engine.beginning import Beginning
from loratory.engine.forecast.machine import fingerprint, read_machine
from loratory.engine.forecast.memory import CPU_WORKSPACE
from loratory.engine.forecast.record import (
    Figures,
    PlanRecord,
    predicted_figures,
    read_record,
    tensor_bytes,
    write_record,
)
from loratory.engine.forecast.run_forecast import ForecastSetting, forecast_run
from loratory.engine.loop import Pace
from loratory.engine.micro_batching import MicroBatching
from loratory.engine.order import BatchPlan
from loratory.engine.peak_memory import PeakMemory
from loratory.engine.progress import Progress
from loratory.engine.ranks import Ranks
from loratory.engine.state import RANDOM_TENSORS
from loratory.run import RunDirectory


class RunMeasurement:
    """Starts when it is made; see `end`.

    Args:
        config: The whole run.
        run: Its directory.
        artefacts: The model in training.
        beginning: Rows and scorer.
        progress: Where the run stands; a resumed run keeps the forecast it began with.
        total_steps: Of the run.
        ranks: The processes.
        process_bytes: Memory of the process before its model was loaded.
        peak: Watches since then; set back to now, where the system allows it.
        is_sampled: The policy makes the rows, so that their work is not known before.
        is_alone: No other run trains in this process; else its peak and its pace are of them all, and not recorded.
    """

    def __init__(
        self,
        config: RunConfig,
        run: RunDirectory,
        artefacts: ModelArtefacts,
        beginning: Beginning,
        progress: Progress,
        *,
        total_steps: int,
        ranks: Ranks,
        process_bytes: int,
        peak: PeakMemory,
        is_sampled: bool,
        is_alone: bool = True,
    ) -> None:
        self._run = run
        self._artefacts = artefacts
        self._is_alone = is_alone
        self._record = read_record(run.path) if progress.step else None
        is_forecast = ranks.is_main and ranks.num == 1 and not is_sampled and not progress.step
        if is_forecast:
            self._record = _forecast(config, artefacts, beginning, progress, total_steps, process_bytes, ranks.device)
            write_record(run.path, self._record)
        peak.restart()
        self._peak = peak

    def end(self, pace: Pace, checkpoint: Path | None, *, note: Callable[[str], None]) -> None:
        """Write down what was measured."""
        if self._record is None:
            return
        measured = Figures(
            trainable=sum(p.numel() for p in self._artefacts.parameters().values()),
            peak_bytes=self._peak.read() if self._is_alone else None,
            step_seconds=pace.mean_s if self._is_alone else None,
            final_bytes=tensor_bytes(self._run.final_model),
            checkpoint_bytes=tensor_bytes(checkpoint, except_names=(RANDOM_TENSORS,)),
        )
        write_record(self._run.path, replace(self._record, measured=measured, num_steps=pace.num_counted))
        planned = self._record.predicted
        if measured.peak_bytes is not None and planned.peak_bytes is not None:
            note(
                f"peak memory {measured.peak_bytes / 2**20:,.0f} MiB, planned {planned.peak_bytes / 2**20:,.0f}"
                + _time_words(measured.step_seconds, planned.step_seconds)
            )


def _forecast(
    config: RunConfig,
    artefacts: ModelArtefacts,
    beginning: Beginning,
    progress: Progress,
    total_steps: int,
    process_bytes: int,
    device: torch.device,
) -> PlanRecord:
    section, rows, path = config.train, beginning.rows, beginning.scorer.path
    threads = torch.get_num_threads()
    machine = read_machine(threads)
    lengths = [row.num_tokens for row in rows.train] if section.group_by_length else None
    plan = BatchPlan(
        len(rows.train), section.batch_size, seed=section.seed, group_lengths=lengths, mixture=rows.mixture
    )
    batching = MicroBatching(section.micro_batch_size, progress.tokens_per_pass, shares_prefixes=path != "padded")
    setting = ForecastSetting(
        config=config,
        path=path,
        machine=machine if device.type == "cpu" else None,
        process_bytes=0 if device.type == "cuda" else machine.process_bytes if machine else process_bytes,
        workspace_bytes=0 if device.type == "cuda" else CPU_WORKSPACE,
        total_steps=total_steps,
        on_cpu=device.type == "cpu",
    )
    forecast = forecast_run(artefacts.model, rows.train, plan, batching, setting)
    return PlanRecord(fingerprint(threads), path, predicted_figures(forecast), None)


def _time_words(measured: float | None, planned: float | None) -> str:
    if measured is None:
        return ""
    words = f"; {measured:.3g} s a step"
    return words if planned is None else f"{words}, planned {planned:.3g}"
