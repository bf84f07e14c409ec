"""The flags of `finetune_lora.py`, which recovers a pruned model by LoRA, under their documented names and defaults.

They grew out of LLM-Pruner's post-training, whose own flags `loratory.interop.alpaca_lora` reads. What is no flag there
and decides the result is taken over: a linear schedule, evaluation every 100 steps, checkpoints every 200, the best one
kept. Its 100 warm-up steps are a share of the steps here, the same on the documented data.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from loratory.errors import ConfigError

TEMPLATE_FOLDER = "templates"
WARMUP_RATIO = 0.06
ALL_PROJECTIONS = "q_proj,k_proj,v_proj,o_proj,gate_proj,down_proj,up_proj"


@dataclass(frozen=True, slots=True)
class RecoveryFlags:
    """Flags and their documented defaults.

    Attributes:
        pruned_model: The pruned model: `pruned_model.bin`, or any model that can be loaded.
        data_path: Rows of instruction, input (optional) and output: a file or a hub name.
        val_set_size: Validation rows.
        cutoff_len: Longest row in tokens.
        prompt_template_name: Name of a template: a file templates/NAME.json here, else one that is known.
        batch_size: Rows of an optimizer step over all processes.
        micro_batch_size: Rows of a forward pass; gradients of batch / micro of them are accumulated.
        num_epochs: Passes over the rows.
        learning_rate: Peak rate.
        lora_r: Rank.
        lora_alpha: Scale numerator.
        lora_dropout: Dropout on the adapter's input.
        lora_target_modules: Names with commas.
        output_dir: Results; default results/<model_name>_finetuned.
        skip_evaluation: Do not evaluate afterwards.
        train_on_inputs: Train prompt tokens too.
        add_eos_token: Accepted; the end token is trained with and without it, as in the original.
        group_by_length: Put rows of similar length together.
        wandb_project: Project of Weights & Biases; empty logs nothing there.
        resume_from_checkpoint: A checkpoint of output_dir, output_dir itself, or true: go on from the newest sound one.
    """

    pruned_model: str
    data_path: str = "yahma/alpaca-cleaned"
    val_set_size: float = 2000
    cutoff_len: int = 256
    prompt_template_name: str = "alpaca"
    batch_size: int = 64
    micro_batch_size: int = 4
    num_epochs: float = 2
    learning_rate: float = 1e-4
    lora_r: int = 8
    lora_alpha: float = 16
    lora_dropout: float = 0.05
    lora_target_modules: str = ALL_PROJECTIONS
    output_dir: str | None = None
    skip_evaluation: bool = False
    train_on_inputs: bool = False
    add_eos_token: bool = False
    group_by_length: bool = False
    wandb_project: str = ""
    resume_from_checkpoint: str | None = None

    @property
    def is_resuming(self) -> bool:
        """Whether an earlier run goes on."""
        return self.resume_from_checkpoint not in (None, "", "False", "false", "None")


FLAG_NAMES = tuple(field.name for field in fields(RecoveryFlags))


def recovery_values(flags: RecoveryFlags, *, folder: Path = Path()) -> dict[str, dict[str, Any]]:
    """Sections of our configuration that mean what the flags mean, not yet validated.

    Args:
        flags: The flags.
        folder: Where `templates/NAME.json` is looked for.

    Raises:
        ConfigError: A checkpoint to resume from that is not in the output folder, or an output folder without a name.
    """
    output = output_folder(flags)
    values: dict[str, dict[str, Any]] = {
        "model": {"model_name_or_path": flags.pruned_model},
        "data": {
            "train": flags.data_path,
            "val_size": int(flags.val_set_size)
            if flags.val_set_size == int(flags.val_set_size)
            else flags.val_set_size,
            "template": _template(flags.prompt_template_name, folder),
            "train_on_inputs": flags.train_on_inputs,
            "cutoff_len": flags.cutoff_len,
            "truncation": "truncate",
        },
        "adapter": {
            "method": "lora",
            "rank": flags.lora_r,
            "alpha": flags.lora_alpha,
            "dropout": flags.lora_dropout,
            "targets": [name.strip() for name in flags.lora_target_modules.strip("[]").split(",") if name.strip()],
        },
        "train": {
            "num_epochs": flags.num_epochs,
            "batch_size": flags.batch_size,
            "micro_batch_size": min(flags.micro_batch_size, flags.batch_size),
            "learning_rate": flags.learning_rate,
            "group_by_length": flags.group_by_length,
            "schedule": "linear",
            "warmup_ratio": WARMUP_RATIO,
            "eval_steps": 100,
            "save_steps": 200,
            "save_total_limit": 20,
            "keep_best": True,
        },
        "run": {"output_dir": str(output.parent), "name": output.name},
    }
    if flags.wandb_project:
        values["run"] |= {"trackers": ["wandb"], "project": flags.wandb_project}
    return values


def output_folder(flags: RecoveryFlags) -> Path:
    """Where results go: as given, else where the checkpoint to resume lies, else results/<model_name>_finetuned.

    Raises:
        ConfigError: The checkpoint lies in another folder than the given one, or the folder has no name.
    """
    given = None if flags.output_dir is None else Path(flags.output_dir)
    found = _resumed_folder(flags)
    if given is not None and found is not None and given.resolve() != found.resolve():
        raise ConfigError(
            f"--resume_from_checkpoint: {flags.resume_from_checkpoint} is no checkpoint of --output_dir {given}; "
            "a run goes on in its own folder. Leave out --output_dir, or name that folder"
        )
    folder = given or found or Path("results") / f"{model_name(flags.pruned_model)}_finetuned"
    if not folder.name:
        raise ConfigError(f"--output_dir: {flags.output_dir!r} has no name; give a folder such as results/recovered")
    return folder


def model_name(path: str) -> str:
    """A pruned model's name: that of its folder, since the file is called the same everywhere."""
    given = Path(path)
    is_file = given.suffix in {".bin", ".pt", ".pth"}
    name = given.parent.resolve().name if is_file and given.stem in {"pruned_model", "pytorch_model"} else given.stem
    return name if is_file else given.name or given.resolve().name


def _resumed_folder(flags: RecoveryFlags) -> Path | None:
    if not flags.is_resuming or flags.resume_from_checkpoint in {"True", "true"}:
        return None
    checkpoint = Path(str(flags.resume_from_checkpoint))
    return checkpoint.parent if checkpoint.name.startswith("checkpoint-") else checkpoint


def _template(name: str, folder: Path) -> str:
    """A file of the user's goes before a template of the same name that is known."""
    own = folder / TEMPLATE_FOLDER / f"{name}.json"
    return str(own) if own.is_file() else name


def flags_from(values: Mapping[str, Any]) -> RecoveryFlags:
    """Flags out of parsed arguments; those left out (None) keep their documented defaults."""
    return RecoveryFlags(**{name: value for name, value in values.items() if name in FLAG_NAMES and value is not None})
