"""The policy before its first step: how it is scored, what memory a pass needs, and what later steps compare with."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from peft import PeftModel
from transformers import PreTrainedModel

from loratory.config import AdapterConfig, RunConfig
from loratory.engine.artefacts import ModelArtefacts
from loratory.engine.memory_budget import MemoryRoom, PassMemory
from loratory.engine.micro_batching import MicroBatching
from loratory.engine.precision import autocast_dtype
from loratory.engine.prepare import PreparedRows
from loratory.engine.ranks import Ranks
from loratory.engine.reference import CACHE_NAME, StartingPolicy, add_reference, parameters_digest
from loratory.engine.scoring import choose_scorer, measure_memory
from loratory.errors import ModelError
from loratory.model import load_model
from loratory.objective import Objective
from loratory.objective.sampled import SampledObjective
from loratory.tree.scorer import Scorer
from loratory.tree.scorers import make_scorer

_REFERENCE_TOKENS = 4096
_NO_OP_INITS = {"default", "gaussian", "orthogonal", "eva"}


@dataclass(frozen=True, slots=True, eq=False)
class Beginning:
    """What is known before the first step.

    Attributes:
        rows: The run's rows, with reference log-probabilities if the objective needs them.
        scorer: Of the policy, now and later.
        room: Memory there is.
        memory: The estimate of what a training pass needs.
        reference: The policy as it starts, for objectives that let the policy answer.
    """

    rows: PreparedRows
    scorer: Scorer
    room: MemoryRoom
    memory: PassMemory
    reference: StartingPolicy | None


def start_of_policy(
    config: RunConfig,
    artefacts: ModelArtefacts,
    rows: PreparedRows,
    objective: Objective,
    *,
    ranks: Ranks,
    note: Callable[[str], None],
) -> Beginning:
    """Look at the attached model before a checkpoint is put into it.

    Args:
        config: The whole run.
        artefacts: The attached model.
        rows: The run's rows.
        objective: Says what reference it needs.
        ranks: The processes.
        note: Shows one line.

    Raises:
        NumericsError: A reference log-probability is not finite.
    """
    section, model = config.train, artefacts.model
    scorer = choose_scorer(model, section, ranks.device)
    note(f"scoring path: {scorer.path} ({scorer.reason})")
    answer_tokens = objective.answer_tokens if isinstance(objective, SampledObjective) else 0
    room, memory = measure_memory(model, scorer, rows, section, ranks, answer_tokens=answer_tokens)
    is_no_op = _is_no_op(config.adapter)
    if objective.needs_reference:
        policy, policy_digest = _reference_policy(config, artefacts, is_no_op=is_no_op, ranks=ranks)
        rows = add_reference(
            rows,
            policy,
            scorer if policy is model else make_scorer(policy),
            micro_batching=MicroBatching(None, _REFERENCE_TOKENS, shares_prefixes=scorer.path != "padded"),
            autocast_dtype=autocast_dtype(section, model.dtype),
            ranks=ranks,
            folder=Path(config.run.output_dir) / CACHE_NAME,
            policy_digest=policy_digest,
            note=note,
        )
    reference = None
    if isinstance(objective, SampledObjective):
        reference = StartingPolicy(model, scorer, parameters=artefacts.parameters(), is_no_op=is_no_op)
    return Beginning(rows, scorer, room, memory, reference)


def _reference_policy(
    config: RunConfig, artefacts: ModelArtefacts, *, is_no_op: bool, ranks: Ranks
) -> tuple[PreTrainedModel | PeftModel, str]:
    """The model whose log-probabilities are the reference, and what names it: the policy as it starts, or another one.

    Another model is needed only while the rows are scored; it is given up afterwards.
    """
    named = config.objective.preference.reference_model
    if named is None:
        start = "" if is_no_op else parameters_digest(artefacts.parameters())
        quantization = config.quantization.model_dump_json()
        return artefacts.model, f"{artefacts.base_identity} {quantization} {artefacts.model.dtype} {start}"
    section = config.model.model_copy(
        update={"model_name_or_path": named, "revision": None, "gguf_file": None, "tokenizer_name_or_path": None}
    )
    loaded = load_model(section, quantization=config.quantization, device=ranks.device)
    theirs, ours = loaded.tokenizer.get_vocab(), artefacts.tokenizer.get_vocab()
    if theirs != ours:
        raise ModelError(
            f"objective.preference.reference_model: '{named}' has another tokenizer than the policy, so its "
            "log-probabilities are of other tokens. Take a reference of the same family."
        )
    loaded.model.requires_grad_(False)
    return loaded.model, f"{loaded.identity} {config.quantization.model_dump_json()} {loaded.model.dtype}"


def _is_no_op(section: AdapterConfig) -> bool:
    """Whether the fresh adapter does nothing yet, so that switching it off gives the policy's start."""
    is_fresh = section.method == "lora" and section.path is None and section.init in _NO_OP_INITS
    return is_fresh and section.bias == "none" and not section.modules_to_save and not section.options
