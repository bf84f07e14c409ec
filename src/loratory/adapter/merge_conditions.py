"""What must hold before an adapter is merged into its base; each check raises what it finds."""

import shutil
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from loratory.adapter.certificate import FILE_NAME, read_certificate
from loratory.adapter.files import AdapterFiles
from loratory.adapter.manifest import TENSORS_FILE, sha256_of
from loratory.adapter.peft_file import read_lora_file
from loratory.config import ModelConfig
from loratory.data.contract import tokenizer_sha256
from loratory.errors import AdapterError, IntegrityError, ResourceError, RunError


def check_output(output: Path, overwrite: bool) -> None:
    """The output must be free, or a merged model that may be overwritten."""
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    if not overwrite:
        raise RunError(f"{output} exists already and is not empty; choose another output, or pass overwrite")
    if not (output / FILE_NAME).is_file():
        raise RunError(
            f"{output} is not a merged model (it holds no {FILE_NAME}), so it is not overwritten; "
            "choose another output or remove it yourself"
        )


def check_not_merged(base: ModelConfig, adapter_dir: Path) -> None:
    """The base must not hold this adapter already."""
    earlier = read_certificate(Path(base.model_name_or_path))
    weights = adapter_dir / TENSORS_FILE
    if earlier is not None and weights.is_file() and sha256_of(weights) == earlier.adapter_sha256:
        raise AdapterError(
            f"{base.model_name_or_path} is a merged model that holds this adapter already; merging it again would "
            f"count it twice. Merge into the original base ({earlier.base_source})"
        )


def check_task(adapter_dir: Path) -> None:
    """Refuse an adapter with a head of its own: the certificate compares what models write, and this one scores."""
    if read_lora_file(adapter_dir).task_type == "SEQ_CLS":
        raise AdapterError(
            f"{adapter_dir} belongs to a reward model or classifier (task_type SEQ_CLS), which has a head in the place "
            "of its base's and cannot be merged here. Use it as it is: PeftModel.from_pretrained on "
            "AutoModelForSequenceClassification; or train with adapter.method=full for a model without an adapter"
        )


def check_tokenizer(files: AdapterFiles, tokenizer: PreTrainedTokenizerBase, adapter_dir: Path) -> None:
    """The merged folder gets this tokenizer: it must be the one of the adapter's template contract, if there is one."""
    contract = files.manifest.template if files.manifest else None
    trained = contract.get("tokenizer_sha256") if contract else None
    found = tokenizer_sha256(tokenizer)
    if trained is not None and trained != found:
        raise IntegrityError(
            f"{adapter_dir}: trained with another tokenizer (sha256 {trained}; the base's now {found}), so the merged "
            "model would read other tokens. Use the run's own tokenizer (model.tokenizer_name_or_path), or give "
            "--force-template if the difference is meant"
        )


def check_space(needed: int, parent: Path) -> None:
    """The disk must take `needed` bytes below `parent`."""
    while not parent.exists():
        parent = parent.parent
    free = shutil.disk_usage(parent).free
    if free < needed * 1.02:
        raise ResourceError(
            f"the merged model needs {needed / 2**20:.0f} MiB and {parent} has {free / 2**20:.0f} MiB free; "
            "nothing was written. Free some space or choose another output"
        )
