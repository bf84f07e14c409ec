"""The key that clients show: given in a file, or made at start and told once."""

import hashlib
import hmac
import secrets
from pathlib import Path

from loratory.errors import ConfigError

MIN_LENGTH = 16


class ApiKey:
    """A key that can be checked and not read back.

    Args:
        key: The secret text.
    """

    def __init__(self, key: str) -> None:
        self._digest = hashlib.sha256(key.encode()).digest()

    def is_shown_by(self, authorization: bytes) -> bool:
        """Whether an Authorization header carries the key; takes equally long for every wrong one."""
        scheme, _, shown = authorization.partition(b" ")
        return self.is_equal(shown.strip()) and scheme.lower() == b"bearer"

    def is_equal(self, shown: bytes) -> bool:
        """Whether a text is the key; takes equally long for every wrong one."""
        return hmac.compare_digest(hashlib.sha256(shown).digest(), self._digest)


def new_key() -> str:
    """A fresh random key."""
    return f"sk-{secrets.token_urlsafe(32)}"


def read_key(path: Path, *, option: str = "--api-key-file") -> str:
    """The key in a file: its only line.

    Args:
        path: The file.
        option: What named it, for messages.

    Raises:
        ConfigError: The file cannot be read, or holds no fit key.
    """
    try:
        key = path.read_text(encoding="ascii").strip()
    except (OSError, ValueError) as error:
        raise ConfigError(f"{option} {path}: cannot be read as text ({error})") from error
    if len(key) < MIN_LENGTH or len(key.split()) != 1:
        raise ConfigError(
            f"{option} {path}: must hold one key of at least {MIN_LENGTH} characters without spaces; make one: "
            "python -c 'import secrets; print(secrets.token_urlsafe(32))'"
        )
    return key
