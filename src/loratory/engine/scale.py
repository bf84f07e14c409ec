"""Dynamic loss scale for float16 gradients, which underflow without one; inactive in every other precision."""

_START = 65536.0
_GROWTH_STEPS = 2000


class LossScale:
    """Halved when a gradient overflows (that step is skipped), doubled after 2000 good steps.

    Attributes:
        value: Current scale; 1 when inactive.
        good_steps: Steps since the last change.
    """

    def __init__(self, *, active: bool) -> None:
        self.active = active
        self.value = _START if active else 1.0
        self.good_steps = 0

    @property
    def can_shrink(self) -> bool:
        """Whether an overflow may still be the scale's fault."""
        return self.active and self.value > 1.0

    def shrink(self) -> None:
        """Record an overflow."""
        self.value /= 2
        self.good_steps = 0

    def grow(self) -> None:
        """Record a good step."""
        self.good_steps += 1
        if self.active and self.good_steps >= _GROWTH_STEPS:
            self.value *= 2
            self.good_steps = 0
