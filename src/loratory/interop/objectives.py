"""What other tools call the objectives that are trained here, and their parameters."""

from collections.abc import Mapping
from typing import Any

from loratory.interop.draft import Draft

# LLaMA-Factory's stages and pref_loss, Axolotl's `rl`, TRL's commands and loss_type -> objective.name.
OBJECTIVES: Mapping[str, str] = {
    "sft": "sft",
    "rm": "reward",
    "reward": "reward",
    "ppo": "ppo",
    "grpo": "grpo",
    "rloo": "rloo",
    "dpo": "dpo",
    "sigmoid": "dpo",
    "hinge": "dpo",
    "ipo": "dpo",
    "robust": "dpo",
    "kto": "kto",
    "orpo": "orpo",
    "simpo": "simpo",
}
# Words that say which of DPO's losses is meant.
_LOSSES = ("sigmoid", "hinge", "ipo", "robust")
# The parameters of `objective` that an objective obeys; a name with a dot at its end stands for all below it.
_OBEYED: Mapping[str, tuple[str, ...]] = {
    "dpo": ("preference.beta", "preference.label_smoothing", "preference.sft_weight", "preference.reference_model"),
    "kto": (
        "preference.beta",
        "preference.desirable_weight",
        "preference.undesirable_weight",
        "preference.reference_model",
    ),
    "orpo": ("preference.beta",),
    "simpo": ("preference.beta", "preference.gamma", "preference.sft_weight"),
    "ppo": ("ppo.", "rollout."),
    "grpo": ("grpo.", "rollout."),
    "rloo": ("rloo.", "rollout."),
    "reward": ("reward.",),
}


def put_objective(draft: Draft, key: str, word: object, parameters: Mapping[str, tuple[str, Any]]) -> None:
    """Set the objective and those of its parameters that it obeys here.

    Args:
        draft: Grows.
        key: The setting that names the objective in the other tool.
        word: What it says.
        parameters: Name below `objective`, such as `preference.beta` -> (their setting, its value).
    """
    name = OBJECTIVES.get(str(word))
    if name is None:
        draft.remark("not honoured", key, f"there is no objective {word!r} here", value=word)
        return
    if not draft.put("objective.name", name, origin=key):
        return
    if name == "dpo" and word in _LOSSES:
        draft.put("objective.preference.loss", word, origin=key)
    for ours, (theirs, value) in parameters.items():
        if value is None:
            continue
        if any(ours == known or (known.endswith(".") and ours.startswith(known)) for known in _OBEYED.get(name, ())):
            draft.put(f"objective.{ours}", value, origin=theirs)
        else:
            draft.report("ignored", theirs, f"objective {name} has no such parameter")
