"""Successive halving: at which steps the candidates are compared, and who goes on. Deterministic, no randomness.

Source: Jamieson and Talwalkar, arXiv 1502.07943. A run that goes on resumes its own checkpoint under the schedule of
its full length, so that the survivor is the run it would have been without any selection.
"""

from collections.abc import Mapping


def rungs(min_steps: int, factor: int, max_steps: int) -> tuple[int, ...]:
    """Steps of each comparison, growing by `factor`; the last is the end of a run."""
    steps = []
    step = min_steps
    while step < max_steps:
        steps.append(step)
        step *= factor
    return (*steps, max_steps)


def promoted(losses: Mapping[int, float], factor: int) -> list[int]:
    """Trials that go on: the best one in `factor` by validation loss, at least one; of equals the first.

    Args:
        losses: Trial -> loss of those that have one.
        factor: One in so many.
    """
    keep = max(1, len(losses) // factor)
    return sorted(sorted(losses, key=lambda number: (losses[number], number))[:keep])
