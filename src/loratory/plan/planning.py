"""`make_plan`: everything that `loratory plan` shows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from loratory.adapter.trainable import TrainableReport
from loratory.config import RunConfig
from loratory.engine.forecast.machine import Machine, fingerprint, read_machine, write_machine
from loratory.engine.forecast.memory import GIB
from loratory.engine.forecast.run_forecast import RunForecast
from loratory.errors import AdapterError, ModelError
from loratory.plan.advice import Advice, advise
from loratory.plan.calibrate import calibrate
from loratory.plan.devices import Device
from loratory.plan.history import Correction, correction, past_runs
from loratory.plan.workbench import Place, Workbench, open_workbench

_USUAL_PROCESS_BYTES = 500 * 2**20


@dataclass(frozen=True, slots=True, eq=False)
class Variant:
    """One of LoRA, QLoRA, full.

    Attributes:
        name: For people.
        is_planned: It is the run file's own.
        forecast: None when it cannot be.
        refusal: Why not.
    """

    name: str
    is_planned: bool
    forecast: RunForecast | None
    refusal: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class OnDevice:
    """The run on a GPU of the table."""

    device: Device
    forecast: RunForecast


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """The answer.

    Attributes:
        config: The run file.
        report: What is trained.
        forecast: On this machine, uncorrected.
        machine: Its figures; None when it was not calibrated.
        correction: Factors from past runs.
        variants: LoRA, QLoRA and full side by side on this machine.
        devices: The run on named GPUs.
        memory_bytes: The limit asked about, if any.
        advice: Changes that make it fit, the mildest first; empty when it fits.
    """

    config: RunConfig
    report: TrainableReport
    forecast: RunForecast
    machine: Machine | None
    correction: Correction
    variants: tuple[Variant, ...]
    devices: tuple[OnDevice, ...]
    memory_bytes: int | None
    advice: tuple[Advice, ...]

    @property
    def peak_bytes(self) -> int:
        """Peak on this machine, corrected."""
        return round(self.forecast.memory.total * self.correction.memory)

    @property
    def step_seconds(self) -> float | None:
        """Time of a step on this machine, corrected."""
        seconds = self.forecast.step_seconds
        return None if seconds is None else seconds * self.correction.time

    @property
    def fits(self) -> bool | None:
        """Whether it fits; None when nobody asked."""
        return None if self.memory_bytes is None else self.peak_bytes <= self.memory_bytes


def make_plan(
    config: RunConfig,
    *,
    memory_gib: float | None = None,
    devices: Sequence[Device] = (),
    may_calibrate: bool = True,
    note: Callable[[str], None],
) -> Plan:
    """Plan a run without loading its weights.

    Args:
        config: The whole run.
        memory_gib: Does it fit into this?
        devices: GPUs of the table to plan for as well.
        may_calibrate: Measure this machine when that was not done before; about 20 seconds.
        note: Shows one line.

    Raises:
        UserError: What training would refuse before its first step.
    """
    if config.train.num_threads is not None:
        torch.set_num_threads(config.train.num_threads)
    bench = open_workbench(config, note=note)
    machine = this_machine(may_calibrate=may_calibrate, note=note)
    limit = None if memory_gib is None else int(memory_gib * GIB)
    process = machine.process_bytes if machine else _USUAL_PROCESS_BYTES
    here = Place(machine, None, process, memory_bytes=limit)
    _, report = bench.model(config, here)
    forecast = bench.forecast(config, here)
    runs = past_runs(Path(config.run.output_dir))
    factors = correction(runs, machine=fingerprint(torch.get_num_threads()), path=forecast.path)
    advice: tuple[Advice, ...] = ()
    if limit is not None and forecast.memory.total * factors.memory > limit:
        advice = advise(bench, config, here, limit_bytes=round(limit / factors.memory))
    return Plan(
        config=config,
        report=report,
        forecast=forecast,
        machine=machine,
        correction=factors,
        variants=tuple(_variants(bench, config, here, forecast)),
        devices=tuple(OnDevice(each, bench.forecast(config, on_device(each, config))) for each in devices),
        memory_bytes=limit,
        advice=advice,
    )


def this_machine(*, may_calibrate: bool, note: Callable[[str], None]) -> Machine | None:
    """This machine's figures: kept ones, or measured now and kept."""
    threads = torch.get_num_threads()
    found = read_machine(threads)
    if found is None and may_calibrate:
        note(f"measuring this machine with {threads} threads, once; other work on it would falsify the figures")
        found = calibrate()
        note(f"kept in {write_machine(found, threads)}")
    return found


def on_device(device: Device, config: RunConfig) -> Place:
    """A GPU of the table as a place, with the number format that the run has there."""
    wish = config.train.precision if config.train.precision != "auto" else config.model.dtype
    machine = device.machine(is_half=device.has_bfloat16 if wish == "auto" else wish != "float32")
    return Place(machine, device, machine.process_bytes, memory_bytes=int(device.memory_bytes * 0.95))


def _variants(bench: Workbench, config: RunConfig, here: Place, own: RunForecast) -> list[Variant]:
    """The run's method plain, quantised and without dropout where that would spare the padded path; full training."""
    is_full, is_quantised = config.adapter.method == "full", config.quantization.is_active
    plain = config.quantization.model_copy(update={"load_in_4bit": False, "load_in_8bit": False})
    packed = plain.model_copy(update={"load_in_4bit": True, "bnb_4bit_use_double_quant": True})
    adapter = config.adapter.model_copy(update={"method": "lora"}) if is_full else config.adapter
    is_lora = adapter.method == "lora"
    name, packed_name = ("LoRA", "QLoRA") if is_lora else (adapter.method, f"{adapter.method}, 4 bits")
    arms = [(name, adapter, plain), (packed_name, adapter, packed), ("full", type(adapter)(method="full"), plain)]
    if adapter.dropout and own.path == "padded":
        without = adapter.model_copy(update={"dropout": 0.0})
        arms.insert(1, ("no dropout", without, plain))
    planned = "full" if is_full else packed_name if is_quantised else name
    found = []
    for arm, section, quantization in arms:
        if arm == planned:
            found.append(Variant(arm, True, own))
            continue
        changed = config.model_copy(update={"adapter": section, "quantization": quantization})
        try:
            found.append(Variant(arm, False, bench.forecast(changed, here)))
        except (AdapterError, ModelError) as refusal:
            found.append(Variant(arm, False, None, str(refusal).splitlines()[0]))
    return found
