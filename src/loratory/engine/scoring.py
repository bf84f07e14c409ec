"""How a run computes its passes: the scorer, and how many tokens go through it at a time."""

from collections.abc import Callable

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from loratory.config import TrainConfig
from loratory.engine.forecast.memory import GIB, MIB
from loratory.engine.memory_budget import (
    MemoryRoom,
    PassMemory,
    label_share,
    max_pass_tokens,
    memory_room,
    pass_memory,
)
from loratory.engine.micro_batching import MicroBatching
from loratory.engine.precision import autocast_dtype
from loratory.engine.prepare import PreparedRows
from loratory.engine.progress import Progress
from loratory.engine.ranks import Ranks
from loratory.tree.eligibility import base_of
from loratory.tree.scorer import Scorer
from loratory.tree.scorers import make_scorer
from loratory.tree.tree_scorer import TreeScorer


def choose_scorer(model: PreTrainedModel | PeftModel, section: TrainConfig, device: torch.device) -> Scorer:
    """The fastest scorer that is exact for the model and does what the section asks for.

    Fused layers compute in the dtype of the weights and keep what they need; mixed precision and gradient
    checkpointing are of the model's own layers.
    """
    is_mixed = autocast_dtype(section, model.dtype) is not None
    scorer = make_scorer(model)
    if is_mixed and device.type != "cpu" and scorer.path != "padded":
        # The tree's attention on a GPU takes tensors as they are, and autocast would hand it unequal dtypes.
        return make_scorer(model, path="padded")
    if scorer.path == "fused" and (is_mixed or section.gradient_checkpointing):
        wish = "train.precision" if is_mixed else "train.gradient_checkpointing"
        return TreeScorer(model, reason=f"every token once, the model's own layers ({wish} is for these)")
    return scorer


def measure_memory(
    model: PreTrainedModel | PeftModel,
    scorer: Scorer,
    rows: PreparedRows,
    section: TrainConfig,
    ranks: Ranks,
    *,
    answer_tokens: int = 0,
) -> tuple[MemoryRoom, PassMemory]:
    """The memory there is, and the estimate of what a training pass needs.

    `answer_tokens` is the length of the answers that rows are yet to get from the policy.
    """
    room = memory_room(ranks.device, budget_gib=section.memory_budget_gib, num_processes=ranks.num)
    memory = pass_memory(
        model,
        base_of(model),
        path=scorer.path,
        optimizer=section.optimizer,
        supervised_share=label_share(rows.train, answer_tokens=answer_tokens),
        gradient_checkpointing=section.gradient_checkpointing,
        is_mixed=autocast_dtype(section, model.dtype) is not None,
        on_cpu=ranks.device.type == "cpu",
    )
    return room, memory


def choose_micro_batching(
    section: TrainConfig,
    progress: Progress,
    *,
    scorer: Scorer,
    room: MemoryRoom,
    memory: PassMemory,
    ranks: Ranks,
    note: Callable[[str], None],
) -> MicroBatching:
    """Rows per pass as configured; without a setting, what the run began with, or what memory allows.

    Args:
        section: What the user asked for.
        progress: Where the run stands; takes down the token budget.
        scorer: Decides how tokens are counted.
        room: Memory there is.
        memory: Memory that a pass needs.
        ranks: The processes; all take the smallest budget of any.
        note: Shows one line.
    """
    tokens = section.max_tokens_per_micro_batch
    if tokens is None and section.micro_batch_size is None:
        tokens = progress.tokens_per_pass
        if tokens is None:
            tokens = min(ranks.gather(max_pass_tokens(memory, room, ranks.device)))
            note(
                f"passes of up to {tokens} tokens, batches of {section.batch_size} rows as asked: about "
                f"{memory.bytes_per_token / MIB:.2g} MiB per token, {room.budget_bytes / GIB:.1f} GiB to use"
            )
        else:
            note(f"passes of up to {tokens} tokens, as when the run began")
    progress.tokens_per_pass = tokens
    return MicroBatching(section.micro_batch_size, tokens, shares_prefixes=scorer.path != "padded")
