"""Reads the `config.yaml` whose `model` section holds `use_peft`, `peft_config` and `quantization_config`.

`use_peft` with `quantization_config` is QLoRA, without it LoRA; `use_peft: false` is full fine-tuning. The other
sections carry training arguments under their usual names, in whatever section the writer put them. Every key ends up in
one of three places: in the values, in the note of approximated keys, or in the note of ignored keys.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from loratory.errors import ConfigError
from loratory.interop.trainer_settings import OPTIMIZERS, SCHEDULES
from loratory.interop.training_arguments import FOREIGN_NAMES

_MARKS = frozenset({"use_peft", "peft_config", "quantization_config"})

# Keys that say what is true here anyway, or that the machine decides.
_WITHOUT_EFFECT = frozenset(
    {"peft_type", "task_type", "inference_mode", "use_cache", "do_train", "overwrite_output_dir"}
)

_SECTIONS = {
    "training": "train",
    "training_args": "train",
    "trainer": "train",
    "optimization": "train",
    "dataset": "data",
    "eval": "predict",
    "generation": "predict",
    "output": "run",
    "experiment": "run",
}
_STRATEGIES = {"eval_strategy": "eval_steps", "evaluation_strategy": "eval_steps", "save_strategy": "save_steps"}


@dataclass(frozen=True, slots=True)
class Translation:
    """What another tool's file means here.

    Attributes:
        values: Plain values in our sections, not yet validated.
        notes: At most one sentence on ignored keys and one on approximated keys.
    """

    values: Mapping[str, Any]
    notes: tuple[str, ...]


def is_peft_document(document: Mapping[str, Any]) -> bool:
    """Whether the file is in this form: a `model` section with at least one of its three marks."""
    model = document.get("model")
    return isinstance(model, Mapping) and bool(_MARKS & set(model))


def translate_peft_document(
    document: Mapping[str, Any], *, native_keys: frozenset[str], source: str = "config.yaml"
) -> Translation:
    """Translate the file to our sections.

    Args:
        document: The parsed YAML.
        native_keys: Our own dotted keys; they are taken as they stand.
        source: Name of the file for the notes.

    Raises:
        ConfigError: Two keys contradict each other, or the file asks for another adapter method or task.
    """
    work = _Work(native_keys, source)
    model = dict(document["model"])
    work.read_adapter(model.pop("use_peft", None), model.pop("peft_config", None))
    work.read_quantization(model.pop("quantization_config", None))
    for section, content in {"model": model, **{k: v for k, v in document.items() if k != "model"}}.items():
        if isinstance(content, Mapping):
            for name, value in content.items():
                work.read_argument(f"{section}.{name}", str(name), value)
        else:
            work.read_argument(str(section), str(section), content)
    return work.finish()


@dataclass
class _Work:
    """The translation while it grows."""

    native_keys: frozenset[str]
    source: str
    values: dict[str, dict[str, Any]] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    ignored: list[str] = field(default_factory=list)
    approximated: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    arguments: dict[str, tuple[str, Any]] = field(default_factory=dict)

    def put(self, key: str, value: object, origin: str) -> None:
        section, name = key.split(".")
        known = self.values.setdefault(section, {})
        if name in known and known[name] != value:
            self.faults.append(
                f"{origin}: says {value!r} where {self.origins[key]} says {known[name]!r}; both mean {key}; keep one"
            )
        known[name] = value
        self.origins.setdefault(key, origin)

    def read_adapter(self, use_peft: object, peft_config: object) -> None:
        if use_peft is not None and not isinstance(use_peft, bool):
            self.faults.append(f"model.use_peft: should be true or false; got {use_peft!r}")
        is_adapter = bool(use_peft) if use_peft is not None else bool(peft_config)
        self.put("adapter.method", "lora" if is_adapter else "full", "model.use_peft")
        if peft_config is None:
            return
        if not isinstance(peft_config, Mapping):
            self.faults.append(f"model.peft_config: expected a mapping such as {{r: 8}}; got {peft_config!r}")
        elif not is_adapter:
            self.ignored.append("model.peft_config (use_peft is false: full fine-tuning)")
        else:
            if "target_modules" not in peft_config:
                self.put("adapter.targets", "default", "model.peft_config")
            for name, value in peft_config.items():
                self._read_peft_key(str(name), value)

    def _read_peft_key(self, name: str, value: object) -> None:
        origin = f"model.peft_config.{name}"
        expected = {"peft_type": "LORA", "task_type": "CAUSAL_LM"}
        if name in expected and str(value).upper() != expected[name]:
            self.faults.append(f"{origin}: {value!r} is not supported here; allowed: {expected[name]}")
        elif name == "target_modules" and value == "all-linear":
            self.put("adapter.targets", "all", origin)
        elif name == "init_lora_weights" and value is True:
            self.put("adapter.init", "default", origin)
        elif (key := FOREIGN_NAMES.get(name)) is not None and key.startswith("adapter."):
            self.put(key, value, origin)
        elif f"adapter.{name}" in self.native_keys:
            self.put(f"adapter.{name}", value, origin)
        elif name not in _WITHOUT_EFFECT and value not in (None, False, {}, []):
            self.ignored.append(origin)

    def read_quantization(self, section: object) -> None:
        if section is None:
            return
        if not isinstance(section, Mapping):
            self.faults.append(
                f"model.quantization_config: expected a mapping such as {{load_in_4bit: true}}; got {section!r}"
            )
            return
        for name, value in section.items():
            origin = f"model.quantization_config.{name}"
            if f"quantization.{name}" not in self.native_keys:
                self.ignored.append(origin)
            elif name == "bnb_4bit_compute_dtype":
                self.put(f"quantization.{name}", _dtype(value), origin)
            else:
                self.put(f"quantization.{name}", value, origin)

    def read_argument(self, origin: str, name: str, value: object) -> None:
        converter = _CONVERTERS.get(name)
        section = _SECTIONS.get(origin.split(".")[0], origin.split(".")[0])
        if converter is not None:
            converter(self, origin, value)
        elif name == "batch_size" and section == "train":
            self.arguments["per_device_train_batch_size"] = (origin, value)
        elif name in _STRATEGIES or name in {"per_device_train_batch_size", "gradient_accumulation_steps"}:
            self.arguments[name] = (origin, value)
        elif f"{section}.{name}" in self.native_keys:
            self.put(f"{section}.{name}", value, origin)
        elif (key := FOREIGN_NAMES.get(name)) is not None:
            self.put(key, value, origin)
        elif len(native := [key for key in self.native_keys if key.endswith(f".{name}")]) == 1:
            self.put(native[0], value, origin)
        elif name not in _WITHOUT_EFFECT:
            self.ignored.append(origin)

    def finish(self) -> Translation:
        self._finish_batch()
        self._finish_strategies()
        if "train" not in self.values.get("data", {}):
            self.put("data.train", "", "data")
        if self.faults:
            raise ConfigError(self.faults)
        notes = [f"{self.source}: read as the PEFT form of a run file."]
        if self.approximated:
            notes.append(f"{self.source}: approximated: {'; '.join(self.approximated)}.")
        if self.ignored:
            notes.append(f"{self.source}: ignored: {', '.join(self.ignored)}.")
        return Translation(self.values, tuple(notes))

    def _finish_batch(self) -> None:
        device = self.arguments.get("per_device_train_batch_size")
        accumulation = self.arguments.get("gradient_accumulation_steps")
        if device is None and accumulation is None:
            return
        rows, steps = (device or ("", 8))[1], (accumulation or ("", 1))[1]
        origin = (device or accumulation or ("", None))[0]
        if not all(isinstance(each, int) and each > 0 for each in (rows, steps)):
            self.faults.append(f"{origin}: batch size and accumulation should be whole numbers above 0")
            return
        self.put("train.micro_batch_size", rows, origin)
        if "batch_size" not in self.values["train"]:
            self.put("train.batch_size", rows * steps, origin)
            self.approximated.append(f"train.batch_size = {rows} x {steps} = {rows * steps} rows over all processes")

    def _finish_strategies(self) -> None:
        for name, (origin, value) in self.arguments.items():
            steps = _STRATEGIES.get(name)
            if steps is None:
                continue
            train = self.values.get("train", {})
            if value == "epoch":
                if train.pop(steps, None) is not None:
                    self.ignored.append(f"{self.origins[f'train.{steps}']} ({origin} is epoch)")
            elif value == "steps":
                if steps not in train:
                    self.put(f"train.{steps}", 500, origin)
            elif value in {False, "no"}:
                self.approximated.append(f"{origin} is no: still done at the end of each epoch")
            else:
                self.approximated.append(f"{origin} {value!r}: done at the end of each epoch")


def _dtype(value: object) -> object:
    names = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16", "half": "float16", "float": "float32"}
    if isinstance(value, str):
        short = value.removeprefix("torch.")
        return names.get(short, short)
    return value


def _read_dtype(work: _Work, origin: str, value: object) -> None:
    work.put("model.dtype", _dtype(value), origin)


def _read_flag_precision(precision: str) -> Callable[[_Work, str, object], None]:
    def read(work: _Work, origin: str, value: object) -> None:
        if value is True:
            work.put("train.precision", precision, origin)

    return read


def _read_schedule(work: _Work, origin: str, value: object) -> None:
    schedule = SCHEDULES.get(str(value))
    if schedule is None:
        schedule = "cosine"
        work.approximated.append(f"{origin} {value!r} becomes cosine")
    work.put("train.schedule", schedule, origin)


def _read_optimizer(work: _Work, origin: str, value: object) -> None:
    optimizer = OPTIMIZERS.get(str(value))
    if optimizer is None:
        optimizer = "adamw"
        work.approximated.append(f"{origin} {value!r} becomes adamw")
    work.put("train.optimizer", optimizer, origin)


def _read_trackers(work: _Work, origin: str, value: object) -> None:
    names = value if isinstance(value, list) else [value]
    work.put("run.trackers", [name for name in names if name not in {"none", None, False}], origin)


def _read_max_steps(work: _Work, origin: str, value: object) -> None:
    if value != -1:
        work.put("train.max_steps", value, origin)


def _read_warmup_steps(work: _Work, origin: str, value: object) -> None:
    if value != 0:
        work.put("train.warmup_steps", value, origin)


def _read_length(work: _Work, origin: str, value: object) -> None:
    work.put("data.cutoff_len", value, origin)
    work.put("data.truncation", "truncate", origin)
    work.approximated.append(f"rows longer than {origin} lose the start of their prompt, never the end of their answer")


def _read_trust(work: _Work, origin: str, value: object) -> None:
    if value:
        work.ignored.append(f"{origin} (a file cannot ask to run foreign code; pass --trust-remote-code)")


_CONVERTERS: Mapping[str, Callable[[_Work, str, Any], None]] = {
    "torch_dtype": _read_dtype,
    "dtype": _read_dtype,
    "bf16": _read_flag_precision("bfloat16"),
    "fp16": _read_flag_precision("float16"),
    "lr_scheduler_type": _read_schedule,
    "lr_scheduler": _read_schedule,
    "optim": _read_optimizer,
    "optimizer": _read_optimizer,
    "report_to": _read_trackers,
    "max_steps": _read_max_steps,
    "warmup_steps": _read_warmup_steps,
    "max_length": _read_length,
    "max_seq_length": _read_length,
    "max_seq_len": _read_length,
    "trust_remote_code": _read_trust,
}
