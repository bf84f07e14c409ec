"""One exception tree for everything loratory can refuse.

An error for a user says four things: what is wrong, what was found, what is allowed, and what to do. Faults that
can be found together are collected and raised once. The command line turns any `LoratoryError` into one message
and its exit code; anything else is a bug of ours and keeps its traceback.
"""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches


class LoratoryError(Exception):
    """Base of all errors that loratory raises on purpose.

    Attributes:
        exit_code: The process exit code that the command line uses for this kind of error.
    """

    exit_code = 1


class UserError(LoratoryError):
    """Input that the user can mend: configuration, data, paths, names."""

    exit_code = 2


class ConfigError(UserError):
    """One or more faults in the configuration.

    Attributes:
        faults: One sentence per fault, each starting with the dotted key it is about.
    """

    def __init__(self, faults: str | Iterable[str]) -> None:
        self.faults: list[str] = [faults] if isinstance(faults, str) else list(faults)
        super().__init__("\n".join(self.faults))


class DataError(UserError):
    """Rows or files that cannot be used as they are; the message names file, line and field."""


class TemplateError(UserError):
    """A prompt template that is unknown, malformed, or does not fit the tokenizer or the row."""


class ModelError(UserError):
    """A base model or tokenizer that is missing, unreadable or of an unsupported kind."""


class AdapterError(UserError):
    """An adapter that does not fit its base, targets nothing, or would train nothing."""


class RewardError(UserError):
    """A reward that cannot be found, or that fails for too many answers."""


class RunError(UserError):
    """A run directory that is missing, in use, or not what the command needs."""


class MissingExtraError(UserError):
    """An optional library is needed and not installed."""

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(f"{feature} needs an optional library. Install it with: pip install 'loratory[{extra}]'")


class UnsafeError(LoratoryError):
    """A file was refused because reading it could run code or exhaust the machine."""

    exit_code = 3


class IntegrityError(LoratoryError):
    """Something on disk is not what its manifest says, or a result failed its certificate."""

    exit_code = 4


class ResourceError(LoratoryError):
    """Memory or disk ran out, or would."""

    exit_code = 5


class NumericsError(LoratoryError):
    """A loss or gradient was not finite; nothing was stepped or saved with it."""

    exit_code = 6


class InterruptedRunError(LoratoryError):
    """The run was stopped by a signal after a clean save; `exit_code` is 128 + the signal's number."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


def suggest(name: str, candidates: Sequence[str]) -> str:
    """Return " Did you mean 'x'?" for the nearest candidate, or an empty string when none is near."""
    near = get_close_matches(name, candidates, n=1, cutoff=0.6)
    return f" Did you mean '{near[0]}'?" if near else ""
