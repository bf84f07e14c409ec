"""LLaMA-Factory's `dataset_info.json`: a register of data sets by name, each with its place, form and column names.

Only the entries that are asked for are looked at closely; the register may name files and hubs that are not there.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from loratory.data.text_source import read_text
from loratory.errors import DataError, suggest

INFO_NAME = "dataset_info.json"

Formatting = Literal["alpaca", "sharegpt"]

_KEYS = (
    "hf_hub_url",
    "ms_hub_url",
    "om_hub_url",
    "script_url",
    "cloud_file_name",
    "file_name",
    "formatting",
    "ranking",
    "subset",
    "split",
    "folder",
    "num_samples",
    "columns",
    "tags",
    "file_sha1",
)
_MEDIA = ("images", "videos", "audios")
_COLUMNS = (
    "prompt",
    "query",
    "response",
    "history",
    "messages",
    "system",
    "tools",
    "chosen",
    "rejected",
    "kto_tag",
    "margin",
)
_DEFAULT_COLUMNS = {"prompt": "instruction", "query": "input", "response": "output", "messages": "conversations"}
_TAGS = {
    "role_tag": "from",
    "content_tag": "value",
    "user_tag": "human",
    "assistant_tag": "gpt",
    "observation_tag": "observation",
    "function_tag": "function_call",
    "system_tag": "system",
}
_OPENAI_TAGS = {
    "role_tag": "role",
    "content_tag": "content",
    "user_tag": "user",
    "assistant_tag": "assistant",
    "observation_tag": "tool",
    "function_tag": "function_call",
    "system_tag": "system",
}


@dataclass(frozen=True, slots=True)
class DatasetEntry:
    """One entry of a register.

    Attributes:
        name: Its name.
        place: Where it stands, for errors: file, line, name.
        formatting: 'alpaca' (one exchange in columns) or 'sharegpt' (a list of messages).
        is_ranking: Rows are preference pairs.
        file: File or folder with the rows; None for a hub data set.
        hub_name: Name on the Hugging Face hub; None for files.
        subset: Configuration of the hub data set.
        split: Split of the hub data set.
        folder: Folder inside the hub data set.
        num_samples: How many rows to take; None for all.
        columns: LLaMA-Factory's column role -> the file's column; only the roles that are used.
        tags: Names inside messages: role_tag, content_tag and the words for each role.
    """

    name: str
    place: str
    formatting: Formatting
    is_ranking: bool
    file: Path | None
    hub_name: str | None
    subset: str | None
    split: str
    folder: str | None
    num_samples: int | None
    columns: Mapping[str, str]
    tags: Mapping[str, str]

    @property
    def definition(self) -> str:
        """What shapes the rows besides the file's bytes, as one line of JSON."""
        shape = [self.formatting, self.is_ranking, self.num_samples, dict(self.columns), dict(self.tags)]
        return json.dumps([*shape, self.subset, self.split, self.folder], sort_keys=True)


def entry_names(folder: Path) -> tuple[str, ...]:
    """Names in the folder's register; none if it has no register.

    Raises:
        DataError: If the register is not a JSON object in UTF-8.
    """
    return tuple(_read(folder)[0]) if (folder / INFO_NAME).is_file() else ()


def dataset_entry(folder: Path, name: str) -> DatasetEntry:
    """One entry of the folder's register.

    Raises:
        DataError: If there is no such register or entry (names the nearest one), or the entry has a key that is
            unknown or of the wrong kind, or asks for what is not supported.
    """
    info, text = _read(folder)
    path = folder / INFO_NAME
    if name not in info:
        raise DataError(
            f"{path}: has no entry '{name}'.{suggest(name, list(info))} It has {len(info)} entries: "
            f"{', '.join(list(info)[:8])}{', …' if len(info) > 8 else ''}."
        )
    line = text.count("\n", 0, max(0, text.find(json.dumps(name, ensure_ascii=False)))) + 1
    return _entry(name, info[name], folder, f"{path}:{line}: '{name}'")


def _read(folder: Path) -> tuple[dict[str, object], str]:
    path = folder / INFO_NAME
    if not path.is_file():
        raise DataError(f"data.dataset_dir: '{folder}' holds no {INFO_NAME}.")
    text = read_text(path, str(path))
    try:
        info = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: not valid JSON: {error.msg} at column {error.colno}.") from None
    except RecursionError:
        raise DataError(f"{path}: not valid JSON: nested too deeply.") from None
    if not isinstance(info, dict):
        raise DataError(f"{path}: must hold one object: {{name: {{file_name: …}}, …}}.")
    return info, text


def _entry(name: str, raw: object, folder: Path, place: str) -> DatasetEntry:
    if not isinstance(raw, dict):
        raise DataError(f"{place}: must be an object with file_name or hf_hub_url.")
    columns, tags = raw.get("columns"), raw.get("tags")
    faults = _key_faults(raw) + _name_faults(columns, "columns", (*_COLUMNS, *_MEDIA))
    faults += _name_faults(tags, "tags", tuple(_TAGS))
    if faults:
        raise DataError(f"{place}: {'; '.join(faults)}.")
    is_openai = raw.get("formatting") == "openai"
    used = {role: column for role, column in (columns or {}).items() if column is not None}
    media = [role for role in _MEDIA if role in used]
    if media:
        raise DataError(
            f"{place}: columns.{media[0]}: rows with {media[0]} are not supported; only text is trained on."
        )
    if columns is None:
        used = {**_DEFAULT_COLUMNS, **({"messages": "messages"} if is_openai else {})}
    elif "messages" not in used and raw.get("formatting") in ("sharegpt", "openai"):
        raise DataError(f"{place}: columns: lacks 'messages', the column with the conversation.")
    elif "prompt" not in used and raw.get("formatting", "alpaca") == "alpaca":
        raise DataError(f"{place}: columns: lacks 'prompt'.")
    is_ranking = raw.get("ranking") or False
    if is_ranking and not {"chosen", "rejected"} <= used.keys():
        raise DataError(f"{place}: ranking needs columns.chosen and columns.rejected.")
    file, hub_name = _location(raw, folder, place)
    return DatasetEntry(
        name=name,
        place=place,
        formatting="alpaca" if raw.get("formatting", "alpaca") == "alpaca" else "sharegpt",
        is_ranking=is_ranking,
        file=file,
        hub_name=hub_name,
        subset=raw.get("subset"),
        split=raw.get("split") or "train",
        folder=raw.get("folder"),
        num_samples=raw.get("num_samples"),
        columns=used,
        tags={**(_OPENAI_TAGS if is_openai and tags is None else _TAGS), **(tags or {})},
    )


def _key_faults(raw: Mapping[str, object]) -> list[str]:
    faults = []
    for key, value in raw.items():
        if key not in _KEYS:
            faults.append(f"unknown key '{key}'{suggest(key, _KEYS)}")
        elif key in ("columns", "tags", "file_sha1") or value is None:
            continue
        elif key == "ranking":
            faults += [] if isinstance(value, bool) else ["ranking: must be true or false"]
        elif key == "num_samples":
            is_count = isinstance(value, int) and not isinstance(value, bool) and value > 0
            faults += [] if is_count else ["num_samples: must be a whole number above 0"]
        elif key == "formatting":
            known = ("alpaca", "sharegpt", "openai")
            faults += [] if value in known else [f"formatting: got {value!r}; one of {', '.join(known)}"]
        elif not isinstance(value, str):
            faults.append(f"{key}: must be text")
    return faults


def _name_faults(names: object, key: str, known: tuple[str, ...]) -> list[str]:
    if names is None:
        return []
    if not isinstance(names, dict):
        return [f"{key}: must be an object of names"]
    faults = [
        f"{key}.{name}: unknown;{suggest(name, known)} one of {', '.join(known)}" for name in names.keys() - known
    ]
    return sorted(faults) + [
        f"{key}.{name}: must be text" for name, value in names.items() if not isinstance(value, str | None)
    ]


def _location(raw: Mapping[str, str], folder: Path, place: str) -> tuple[Path | None, str | None]:
    """File or hub name: the first kind that the entry names, in LLaMA-Factory's order."""
    if hub := raw.get("hf_hub_url"):
        return None, hub
    if file := raw.get("file_name"):
        path = folder / file
        if not path.exists():
            near = suggest(file, sorted(entry.name for entry in folder.iterdir()))
            raise DataError(f"{place}: file_name: there is no '{path}'.{near} Put the file there or mend the entry.")
        return path, None
    reasons = {
        "ms_hub_url": "ModelScope is not read",
        "om_hub_url": "OpenMind is not read",
        "script_url": "a loading script is code from elsewhere and is not run",
        "cloud_file_name": "cloud storage is not read",
    }
    for key, reason in reasons.items():
        if raw.get(key):
            raise DataError(f"{place}: {key}: {reason}. Download the rows and set file_name to the file.")
    raise DataError(f"{place}: names no place: give file_name or hf_hub_url.")
