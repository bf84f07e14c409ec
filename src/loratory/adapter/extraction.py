"""The adapter of a run, checkpoint or folder, copied to a folder of its own: plain PEFT files and the manifest."""

import shutil
from pathlib import Path

from loratory.adapter.files import AdapterFiles, read_adapter
from loratory.adapter.manifest import CONFIG_FILE
from loratory.errors import AdapterError
from loratory.run.commit import publish_directory

INNER = ("", "final_model", "adapter", "model", "lora_adapter")
KEPT = ("adapter_config.json", "adapter_model.safetensors", "loratory_adapter.json")
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")


def find_adapter(path: Path) -> Path:
    """The adapter's folder in a run, a checkpoint or the folder itself; of a run without result the newest checkpoint.

    Raises:
        AdapterError: There is none.
    """
    for name in INNER:
        if (path / name / CONFIG_FILE).is_file():
            return path / name
    checkpoints = sorted(path.glob("checkpoint-*"), key=lambda found: (len(found.name), found.name))
    for checkpoint in reversed(checkpoints):
        for name in INNER:
            if (checkpoint / name / CONFIG_FILE).is_file():
                return checkpoint / name
    raise AdapterError(f"{path} holds no adapter: no {CONFIG_FILE} in it, in final_model or in a checkpoint")


def save_as(path: Path, output: Path) -> AdapterFiles:
    """Copy the adapter in `path` to `output`, checked before and published whole.

    Args:
        path: A run, checkpoint or adapter folder.
        output: The new folder.

    Returns:
        The adapter as it reads back.

    Raises:
        AdapterError, UnsafeError, IntegrityError: As for `find_adapter` and `read_adapter`.
        RunError: `output` exists.
    """
    folder = find_adapter(path)
    read_adapter(folder)

    def write(stage: Path) -> None:
        for name in (*KEPT, *TOKENIZER):
            if (folder / name).is_file():
                shutil.copyfile(folder / name, stage / name)
        read_adapter(stage)

    publish_directory(output, write)
    return read_adapter(output)
