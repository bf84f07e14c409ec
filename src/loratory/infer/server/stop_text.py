"""Stop strings: text is let out only once it cannot be the beginning of one."""

from collections.abc import Sequence


class StopText:
    """Text on its way out.

    Args:
        stops: Strings that end an answer and are no part of it.

    Attributes:
        is_stopped: Whether one of them came.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.is_stopped = False

    def push(self, text: str) -> str:
        """Add text; returns what may be shown of all that was added."""
        if self.is_stopped:
            return ""
        self._held += text
        found = [place for place in map(self._held.find, self._stops) if place >= 0]
        if found:
            self.is_stopped = True
            shown, self._held = self._held[: min(found)], ""
            return shown
        keep = max((_begun(self._held, stop) for stop in self._stops), default=0)
        shown, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return shown

    def flush(self) -> str:
        """What was held back, at the end."""
        shown, self._held = self._held, ""
        return shown


def _begun(text: str, stop: str) -> int:
    """Length of the longest beginning of `stop` that ends `text`."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)
