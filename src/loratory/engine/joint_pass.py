"""Steps of several runs in one pass over the base that they share; what does not fit is left to each run alone."""

import time
from collections.abc import Sequence

import torch

from loratory.engine.step import JoinableStep, is_out_of_memory
from loratory.objective.loss import LossSum
from loratory.tree.fused.joint import joint_hidden

# Products are at full speed from here on, and the memory of a pass grows with its tokens.
MAX_TOKENS = 512


def compute_jointly(steps: Sequence[JoinableStep]) -> None:
    """Leave each step its loss and its gradient, in passes of several steps each.

    A step that finds no company is not touched, nor is any step of a pass for which memory runs out.

    Args:
        steps: The next step of each run that has one; their models share their frozen weights.
    """
    for group in groups(steps):
        if len(group) > 1:
            _compute(group)


def groups(steps: Sequence[JoinableStep]) -> list[list[JoinableStep]]:
    """Steps that go into one pass, in their order."""
    found: list[list[JoinableStep]] = []
    num_tokens = 0
    for step in steps:
        limit = min((MAX_TOKENS, *(s.max_tokens for s in (*(found[-1] if found else ()), step) if s.max_tokens)))
        num_tokens += step.batch.tree.num_tokens
        if not found or num_tokens > limit:
            found.append([])
            num_tokens = step.batch.tree.num_tokens
        found[-1].append(step)
    return found


def _compute(steps: Sequence[JoinableStep]) -> None:
    start_s = time.perf_counter()
    for each in steps:
        each.step.forget_gradient()
    try:
        losses = _losses(steps)
        torch.autograd.backward([loss.sum / each.count for loss, each in zip(losses, steps, strict=True)])
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        for each in steps:
            each.step.forget_gradient()
        return
    seconds = time.perf_counter() - start_s
    num_tokens = sum(each.batch.tree.num_tokens for each in steps)
    for loss, each in zip(losses, steps, strict=True):
        share = each.batch.tree.num_tokens / num_tokens
        each.step.accept(each.rows, LossSum(loss.sum.detach(), loss.count, loss.metrics), seconds=seconds * share)


def _losses(steps: Sequence[JoinableStep]) -> list[LossSum]:
    hidden = joint_hidden([each.scorer for each in steps], [each.batch.tree for each in steps])
    losses = []
    for each in steps:
        each.scorer.share_head(steps[0].scorer)
    for each, (rows_P, hidden_PD) in zip(steps, hidden, strict=True):
        with each.scorer.given(each.batch.tree, rows_P, hidden_PD):
            losses.append(each.objective.loss(each.scorer, each.batch))
    return losses
