"""Where converted models are kept between runs."""

import os
from pathlib import Path


def default_cache_dir() -> Path:
    """`LORATORY_CACHE` when it is set, else `loratory` in the user's cache folder."""
    if given := os.environ.get("LORATORY_CACHE"):
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser() / "loratory"
