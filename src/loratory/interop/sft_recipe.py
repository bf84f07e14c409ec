"""The documented training recipe for an adapter file, as flags of PEFT's examples/sft."""

import shlex
from collections.abc import Mapping

from loratory.interop.rules import is_off

# What the flags lora_r, lora_alpha, lora_dropout and lora_target_modules say, and what needs no flag.
_BY_FLAGS = frozenset({"peft_type", "task_type", "r", "lora_alpha", "lora_dropout", "target_modules", "inference_mode"})
_WITHOUT_EFFECT = frozenset({"base_model_name_or_path", "peft_version", "fan_in_fan_out", "megatron_core"})
_NEUTRAL: Mapping[str, object] = {"bias": "none", "init_lora_weights": True, "qalora_group_size": 16}

BEFORE_DATA: Mapping[str, object] = {"seed": 42}
DATA: Mapping[str, object] = {
    "chat_template_format": "none",
    "add_special_tokens": False,
    "append_concat_token": False,
    "splits": "train",
    "max_length": 2048,
}
TRAINING: Mapping[str, object] = {
    "logging_steps": 10,
    "log_level": "info",
    "logging_strategy": "steps",
    "eval_strategy": "no",
    "save_strategy": "epoch",
    "bf16": True,
    "packing": False,
    "learning_rate": "2e-4",
    "lr_scheduler_type": "cosine",
    "weight_decay": 0.01,
    "warmup_ratio": 0.03,
    "max_grad_norm": 1.0,
}
BATCH: Mapping[str, object] = {
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 4,
    "gradient_checkpointing": True,
    "use_reentrant": False,
    "dataset_text_field": "text",
}


def recipe_flags(
    adapter: Mapping[str, object],
    *,
    adapter_file: str,
    model_path: str,
    dataset_name: str,
    output_dir: str,
    num_epochs: float,
) -> dict[str, object]:
    """Flag -> value of the whole run, in the order in which they are printed.

    Args:
        adapter: The PEFT adapter configuration.
        adapter_file: Its file; named by a flag where the LoRA flags cannot say all that it says.
        model_path: The base model.
        dataset_name: The training rows.
        output_dir: Folder of the run.
        num_epochs: Passes over the rows.
    """
    flags: dict[str, object] = {**BEFORE_DATA, "model_name_or_path": model_path, "dataset_name": dataset_name}
    epochs = int(num_epochs) if num_epochs == int(num_epochs) else num_epochs
    flags |= {**DATA, "num_train_epochs": epochs, **TRAINING, "output_dir": output_dir, **BATCH, "use_peft_lora": True}
    if str(adapter.get("peft_type", "")).upper() == "LORA":
        targets = adapter.get("target_modules")
        flags |= {
            "lora_r": adapter.get("r", 8),
            "lora_alpha": adapter.get("lora_alpha", 8),
            "lora_dropout": adapter.get("lora_dropout", 0.0),
        }
        if targets is not None:
            flags["lora_target_modules"] = ",".join(map(str, targets)) if isinstance(targets, list) else targets
    if not _is_said_by_flags(adapter):
        flags["adapter_config"] = adapter_file
    return flags | {"use_flash_attn": True}


def flags_to_tokens(flags: Mapping[str, object]) -> list[str]:
    """The flags as words of a command line."""
    return [token for name, value in flags.items() for token in (f"--{name}", str(value))]


def format_command(command: str, flags: Mapping[str, object]) -> str:
    """The command for a shell, one flag a line, ready to copy."""
    lines = [command, *(f"    --{name} {shlex.quote(str(value))}" for name, value in flags.items())]
    return " \\\n".join(lines)


def _is_said_by_flags(adapter: Mapping[str, object]) -> bool:
    if str(adapter.get("peft_type", "")).upper() != "LORA" or is_off(adapter.get("target_modules")):
        return False
    rest = {key: value for key, value in adapter.items() if key not in _BY_FLAGS | _WITHOUT_EFFECT}
    return all(is_off(value) or _NEUTRAL.get(key) == value for key, value in rest.items())
