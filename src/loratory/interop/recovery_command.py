"""Command lines of `finetune_lora.py`, the documented script that recovers a pruned model."""

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

from loratory.interop.draft import Draft, Tool
from loratory.interop.llm_pruner import RecoveryFlags, flags_from, recovery_values
from loratory.interop.rules import Table, ignored, together

_RULES: Table = {
    **together(*(field.name for field in fields(RecoveryFlags))),
    **ignored("the end token is trained with and without it, there and here", "add_eos_token"),
    **ignored("`loratory evaluate` is a command of its own", "skip_evaluation"),
    **ignored("give --resume to `loratory train`", "resume_from_checkpoint"),
}
_DEFAULTS: Mapping[str, object] = {
    field.name: field.default for field in fields(RecoveryFlags) if field.default not in (MISSING, None)
}


def _finish(draft: Draft, settings: Mapping[str, Any]) -> None:
    targets = settings["lora_target_modules"]
    texts = {"lora_target_modules": ",".join(targets) if isinstance(targets, list) else targets}
    flags = flags_from({"pruned_model": "", **settings, **texts, "resume_from_checkpoint": None})
    for section, content in recovery_values(flags).items():
        for name, value in content.items():
            draft.put(f"{section}.{name}", value, origin=name)


FINETUNE_LORA = Tool("finetune-lora", "finetune_lora.py", _RULES, _DEFAULTS, _finish, programs=("finetune_lora.py",))
