"""Push a folder to the Hugging Face hub, after saying what would go there."""

import fnmatch
import os
from dataclasses import dataclass
from pathlib import Path

from loratory.errors import ConfigError, RunError

# Nothing of a run's own bookkeeping, and nothing that is left of a broken write.
LEFT_OUT = (".*", "*/.*", "*.tmp", "trainable.safetensors", "optimizer.*")


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file that goes to the hub.

    Attributes:
        name: Its path in the repository.
        num_bytes: Its size.
    """

    name: str
    num_bytes: int


def hub_files(folder: Path) -> tuple[HubFile, ...]:
    """What a push of the folder would send, by name.

    Raises:
        RunError: There is nothing to push.
    """
    if not folder.is_dir():
        raise RunError(f"{folder}: no such folder to push")
    found = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and not any(fnmatch.fnmatch(name, pattern) for pattern in LEFT_OUT):
            found.append(HubFile(name, path.stat().st_size))
    if not any(file.name.endswith((".safetensors", ".gguf", ".bin")) for file in found):
        raise RunError(f"{folder}: holds no weights, so there is no model to push")
    return tuple(found)


def push_folder(folder: Path, repo_id: str, *, card: str | None, is_private: bool = True, message: str = "") -> str:
    """Create the repository when it is missing and send the folder in one commit.

    Args:
        folder: Model or adapter folder.
        repo_id: "user/name".
        card: Text of README.md; None sends the folder's own.
        is_private: Whether a new repository is private.
        message: Commit message.

    Returns:
        Address of the commit.

    Raises:
        ConfigError: `repo_id` is no name of a repository.
        RunError: Offline, not logged in, refused, or the connection broke.
    """
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled

    files = hub_files(folder)
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON"):
        raise RunError("HF_HUB_OFFLINE is set, so nothing can be pushed; unset it, or look with --dry-run")
    operations = [
        CommitOperationAdd(file.name, folder / file.name) for file in files if card is None or file.name != "README.md"
    ]
    if card is not None:
        operations.append(CommitOperationAdd("README.md", card.encode("utf-8")))
    api = HfApi()
    try:
        api.create_repo(repo_id, private=is_private, exist_ok=True)
        commit = api.create_commit(repo_id, operations, commit_message=message or f"Upload {folder.name} with loratory")
    except HFValidationError as error:
        raise ConfigError(f"--repo-id: got {repo_id!r}; needed is USER/NAME ({error})") from error
    except LocalTokenNotFoundError as error:
        raise RunError("not logged in to the hub: run `hf auth login`, or set HF_TOKEN") from error
    except (HfHubHTTPError, OfflineModeIsEnabled, ConnectionError, TimeoutError, OSError) as error:
        reason = str(error).strip().splitlines()
        raise RunError(
            f"the hub could not be reached or refused {repo_id!r}: {reason[0] if reason else type(error).__name__}. "
            "Check the connection, the name and the rights of your token (hf auth login); --dry-run needs none of them"
        ) from error
    return str(commit.commit_url)
