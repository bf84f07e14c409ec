"""What other tools call the objectives that are trained here, and their parameters."""

from collections.abc import Mapping
from typing import Any

from loratory.interop.draft import Draft

# LLaMA-Factory's stages, Axolotl's `rl`, TRL's commands -> objective.name.
OBJECTIVES: Mapping[str, str] = {
    "sft": "sft",
    "rm": "reward",
    "reward": "reward",
    "ppo": "ppo",
    "dpo": "dpo",
    "ipo": "ipo",
    "kto": "kto",
    "orpo": "orpo",
    "simpo": "simpo",
    "grpo": "grpo",
}
# LLaMA-Factory's pref_loss and TRL's loss_type of preference pairs -> objective.name.
PREFERENCE_LOSSES: Mapping[str, str] = {
    "sigmoid": "dpo",
    "hinge": "hinge",
    "ipo": "ipo",
    "orpo": "orpo",
    "simpo": "simpo",
}


def put_objective(draft: Draft, key: str, word: object, parameters: Mapping[str, Any]) -> None:
    """Set the objective and those of its parameters that it has here.

    Args:
        draft: Grows.
        key: The setting that names the objective in the other tool.
        word: What it says.
        parameters: Our parameter's name -> (their setting, value).
    """
    name = OBJECTIVES.get(str(word))
    if name is None:
        draft.remark("not honoured", key, f"there is no objective {word!r} here", value=word)
        return
    if not draft.put("objective.name", name, origin=key) or name == "sft":
        return
    for ours, (theirs, value) in parameters.items():
        if value is not None:
            draft.put(f"objective.{ours}", value, origin=theirs)
