"""The verb that says what a run would need, before anything is trained."""

from pathlib import Path
from typing import Annotated

import typer

from loratory.cli.console import note
from loratory.engine.libraries import load_libraries
from loratory.errors import ConfigError, RunError


def plan(
    run_file: Annotated[
        Path | None, typer.Argument(metavar="RUN.yaml", help="The run file.", show_default=False)
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[SECTION.KEY=VALUE]...", help="Fields to override.", show_default=False),
    ] = None,
    memory: Annotated[float | None, typer.Option(min=0.01, help="Does it fit into this many GiB?")] = None,
    device: Annotated[
        str | None, typer.Option(help="GPUs to plan for as well, with commas: a4000, 4090, a100, h100, … or all.")
    ] = None,
    calibrate: Annotated[
        bool, typer.Option(help="Measure this machine if that was not done before (about 20 seconds).")
    ] = True,
    history: Annotated[
        bool,
        typer.Option("--history", help="Show how right the forecasts of past runs were; RUN.yaml is their folder."),
    ] = False,
) -> None:
    """Say what a run would need: memory, disk, time. Nothing is trained."""
    if history:
        _show_history(Path("outputs") if run_file is None else run_file)
        return
    if run_file is None:
        raise ConfigError("RUN.yaml is missing: name the run file to plan, or ask for --history")
    plan_from_file(run_file, overrides or [], memory_gib=memory, device=device, may_calibrate=calibrate)


def plan_from_file(
    run_file: Path, overrides: list[str], *, memory_gib: float | None, device: str | None, may_calibrate: bool
) -> None:
    """Plan a run file and print the tables.

    Args:
        run_file: The run file.
        overrides: section.key=value.
        memory_gib: Does it fit into this?
        device: Names of GPUs, with commas.
        may_calibrate: Measure this machine when that was not done before.

    Raises:
        LoratoryError: What training would refuse before its first step; an unknown device.
    """
    from loratory.config import read_config

    reading = read_config(run_file, overrides)
    for sentence in reading.notes:
        note(sentence)
    if not reading.config.data.train:
        raise ConfigError("data.train: names no training rows; give data.train=FILE")
    from loratory.plan.devices import DEVICES, USUAL
    from loratory.plan.devices import device as find_device

    names = USUAL if device is None else tuple(DEVICES) if device == "all" else device.split(",")
    chosen = [find_device(name) for name in names]
    load_libraries()
    from loratory.cli.plan_table import print_plan
    from loratory.plan.planning import make_plan

    print_plan(make_plan(reading.config, memory_gib=memory_gib, devices=chosen, may_calibrate=may_calibrate, note=note))


def _show_history(folder: Path) -> None:
    from loratory.cli.plan_table import print_history
    from loratory.plan.history import past_runs

    if not folder.is_dir():
        raise RunError(f"{folder}: no such folder; give the folder of runs (run.output_dir)")
    runs = past_runs(folder)
    if not runs:
        raise RunError(f"{folder}: no finished run with a plan.json is there; each run of `loratory train` leaves one")
    print_history(runs)
