"""A user's reward function by import path. It is code, so it comes from the command line and never from a run file."""

import hashlib
import importlib
import importlib.util
import inspect
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from loratory.errors import RewardError
from loratory.objective.judge import RewardFunction


@dataclass(frozen=True, slots=True)
class NamedRewardFunction:
    """A function (prompt, answer, label) -> number.

    Attributes:
        path: As the user gave it.
        function: The function.
        source_sha256: Of the file that defines it, so that a resumed run can tell that it has changed.
    """

    path: str
    function: RewardFunction
    source_sha256: str


def load_reward_function(path: str) -> NamedRewardFunction:
    """Import a function; this runs the module's code.

    Args:
        path: `module:function` as Python imports it from the working directory, or `file.py:function`.

    Raises:
        RewardError: There is no such module or function, or it does not take (prompt, answer, label).
    """
    module_name, _, name = path.rpartition(":")
    if not module_name or not name:
        raise RewardError(f"--reward-function: got '{path}'; expected module:function or file.py:function")
    module = _import(module_name)
    function = getattr(module, name, None)
    if not callable(function):
        raise RewardError(f"--reward-function: '{module_name}' has no function '{name}'")
    try:
        inspect.signature(function).bind("prompt", "answer", "label")
    except (TypeError, ValueError) as error:
        raise RewardError(
            f"--reward-function: '{path}' must take three texts (prompt, answer, label) and return a number: {error}"
        ) from None
    source = getattr(module, "__file__", None)
    content = Path(source).read_bytes() if source else b""
    return NamedRewardFunction(path, function, hashlib.sha256(content).hexdigest())


def _import(name: str) -> ModuleType:
    if not name.endswith(".py"):
        here = str(Path.cwd())
        added = here not in sys.path
        if added:
            sys.path.insert(0, here)
        try:
            return importlib.import_module(name)
        except ImportError as error:
            raise RewardError(f"--reward-function: cannot import '{name}' ({error})") from error
        finally:
            if added:
                sys.path.remove(here)
    spec = importlib.util.spec_from_file_location(Path(name).stem, name)
    if spec is None or spec.loader is None or not Path(name).is_file():
        raise RewardError(f"--reward-function: there is no file '{name}'")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
