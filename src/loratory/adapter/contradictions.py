"""What contradicts what in an adapter section: its fields each other, a quantised base, the adapter it continues."""

import re

from loratory.adapter.method import refuse_pickles
from loratory.adapter.peft_file import LORA_OPTIONS, LoraFile
from loratory.config import AdapterConfig
from loratory.errors import AdapterError, suggest

INITS = ("default", "gaussian", "orthogonal", "eva", "loftq", "olora", "pissa", "pissa_niter_N", "corda", "lora_ga")
PLAIN_INITS = INITS[:5]
BASE_CHANGING_INIT = re.compile(r"olora|pissa(_niter_[1-9]\d?)?|corda|lora_ga")
# They change the base, need a kind of training of their own, or name parameters instead of modules.
UNSAVABLE_OPTIONS = (
    "layer_replication",
    "target_parameters",
    "kasa_config",
    "arrow_config",
    "alora_invocation_tokens",
    "use_qalora",
    "monteclora_config",
)


def refuse_contradictions(section: AdapterConfig, *, is_quantised: bool) -> None:
    """Refuse fields that contradict each other or a quantised base.

    Raises:
        AdapterError: With one fault a line.
    """
    refuse_pickles(section.options)
    faults = []
    init = section.init
    lost = [name for name in UNSAVABLE_OPTIONS if section.options.get(name)]
    if section.method == "lora" and lost:
        faults.append(
            f"adapter.options.{lost[0]}: an adapter with it cannot be saved so that it loads on the base again; leave "
            f"it out. Further options of lora are {', '.join(LORA_OPTIONS)}, layers_to_transform, lora_bias"
        )
    if section.method != "lora" and section.create_new_adapter:
        faults.append(
            f"adapter.create_new_adapter: an earlier adapter and a new one of method {section.method} cannot be saved "
            "as one; merge the earlier one with 'loratory adapter merge' first, or use method lora"
        )
    changes_base = BASE_CHANGING_INIT.fullmatch(init) is not None
    if init not in PLAIN_INITS and not changes_base:
        faults.append(f"adapter.init: {init!r} is unknown; allowed are {', '.join(INITS)}.{suggest(init, INITS)}")
    if init == "loftq" and not is_quantised:
        faults.append(
            "adapter.init: loftq makes up for the error of 4-bit weights; set quantization.load_in_4bit: true"
        )
    if init == "loftq" and section.use_dora:
        faults.append("adapter.init: loftq changes what DoRA's magnitudes were taken from; leave one of them out")
    if init == "orthogonal" and any(rank % 2 for rank in (section.rank, *section.rank_pattern.values())):
        faults.append(f"adapter.init: orthogonal needs an even rank, adapter.rank is {section.rank}")
    if changes_base and is_quantised:
        faults.append(f"adapter.init: {init} changes the base weights and these are quantised; use default")
    if (changes_base or section.create_new_adapter) and (section.use_dora or section.bias != "none"):
        faults.append(
            f"adapter: use_dora and bias other than none do not go with init {init!r} and "
            f"create_new_adapter {section.create_new_adapter}"
        )
    if section.create_new_adapter and section.modules_to_save:
        faults.append("adapter.modules_to_save does not go with create_new_adapter; merge the earlier adapter first")
    if section.create_new_adapter and section.path is None:
        faults.append("adapter.create_new_adapter: adapter.path is missing; name the earlier adapter's folder")
    if any(rank < 1 for rank in section.rank_pattern.values()):
        faults.append(f"adapter.rank_pattern: ranks are 1 or more, found {min(section.rank_pattern.values())}")
    if faults:
        raise AdapterError("\n".join(faults))


def refuse_differences(section: AdapterConfig, file: LoraFile) -> None:
    """An option that the user wrote and that the adapter on disk contradicts is an error, not silently ignored.

    Raises:
        AdapterError: With one fault a line.
    """
    if section.method != file.method:
        raise AdapterError(
            f"adapter.method: {section.method}, but the adapter at adapter.path is {file.method}; write "
            f"adapter.method: {file.method} to continue it"
        )
    different = [name for name, value in section.options.items() if file.options.get(name) != value]
    if different:
        raise AdapterError(
            f"adapter.options: {', '.join(different)} differ from the adapter at adapter.path; leave them out to "
            "continue it"
        )
    if file.method != "lora":
        return
    pairs = (
        ("rank", file.rank),
        ("alpha", file.alpha),
        ("bias", file.bias),
        ("use_rslora", file.use_rslora),
        ("use_dora", file.use_dora),
        ("rank_pattern", file.rank_pattern),
        ("alpha_pattern", file.alpha_pattern),
    )
    faults = []
    for name, have in pairs:
        asked = getattr(section, name)
        # A resolved configuration spells out the defaults, which therefore say nothing.
        is_default = asked == type(section).model_fields[name].get_default(call_default_factory=True)
        if not is_default and asked != have:
            faults.append(
                f"adapter.{name}: {asked!r}, but the adapter at adapter.path has {have!r}; leave it out to continue "
                "that adapter, or set create_new_adapter: true"
            )
    if faults:
        raise AdapterError("\n".join(faults))
