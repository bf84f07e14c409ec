"""What is evaluated: a model or an adapter on its base, opened once, with the identity that its numbers belong to."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from loratory.adapter.manifest import CONFIG_FILE, TENSORS_FILE, read_manifest, sha256_of
from loratory.adapter.peft_file import read_lora_file
from loratory.config import ModelConfig, QuantizationConfig
from loratory.data.templates import bind_template
from loratory.errors import AdapterError
from loratory.infer.fusion import FusedAdapter
from loratory.infer.session import Session, compare_contracts, open_model
from loratory.model.identity import weight_files
from loratory.model.source import locate_model, snapshot_folder

Kind = Literal["run", "adapter", "model"]


@dataclass(frozen=True, slots=True)
class SubjectSource:
    """Where a subject lies, before anything is loaded.

    Attributes:
        kind: A run, an adapter's folder, or a whole model.
        path: As the user named it.
        base: The model, or the adapter's base.
        adapter_dir: The adapter's folder, or None.
        template: Prompt template for rows with answers.
        contract: The template's contract as training wrote it, or None.
        quantization: 4 or 8 bits for the base, or None.
    """

    kind: Kind
    path: str
    base: ModelConfig
    adapter_dir: Path | None
    template: str
    contract: Mapping[str, object] | None = None
    quantization: QuantizationConfig | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Subject:
    """A model ready to be measured, in eval mode and without gradients.

    Attributes:
        source: Where it came from.
        model: The model; a float32 adapter is merged into it in memory, as for answering.
        tokenizer: Its tokenizer.
        base_identity: sha256 over the base's weights.
        adapter_sha256: Of the adapter's weights, or None.
        files: Weight files of base and adapter.
        fused: The adapter merged in memory, when it is.
    """

    source: SubjectSource
    model: PreTrainedModel | PeftModel
    tokenizer: PreTrainedTokenizerBase
    base_identity: str
    adapter_sha256: str | None
    files: tuple[Path, ...]
    fused: FusedAdapter | None

    def session(self) -> Session:
        """The model with its template, for answering rows.

        Raises:
            TemplateError: The template is unknown or the tokenizer has no stop token.
            IntegrityError: The template is not the one of training.
        """
        template = bind_template(self.source.template, self.tokenizer)
        if self.source.contract is not None:
            compare_contracts(self.source.contract, template.contract(), place=self.source.path)
        return Session(self.model, self.tokenizer, template, self.fused)


def locate_subject(path: str, *, base: str | None = None) -> SubjectSource:
    """Find out what lies at a path that is no run: an adapter's folder or a model in any form that can be loaded.

    Args:
        path: An adapter's folder, a model's folder, a .gguf file, a pruned model's .bin, or a hub name.
        base: The base of an adapter; default: what its adapter_config.json names.

    Raises:
        AdapterError: The adapter names no base, or a base was given for what is no adapter.
        IntegrityError: The adapter's manifest cannot be read.
    """
    folder = Path(path)
    if not (folder / CONFIG_FILE).is_file():
        if base is not None:
            raise AdapterError(f"{path}: --base is for an adapter's folder and this is none; leave it out")
        return SubjectSource("model", path, ModelConfig(model_name_or_path=path), None, "auto")
    named = base or read_lora_file(folder).base_name
    if not named:
        raise AdapterError(f"{path}: the adapter names no base model; give it: --base FOLDER")
    manifest = read_manifest(folder)
    contract = None if manifest is None else manifest.template
    template = "auto" if contract is None else str(contract["name"])
    return SubjectSource("adapter", path, ModelConfig(model_name_or_path=named), folder, template, contract)


def open_subject(
    source: SubjectSource, *, device: torch.device | str | None = None, trust_remote_code: bool = False
) -> Subject:
    """Load a subject.

    Raises:
        ModelError, AdapterError, IntegrityError, UnsafeError: It cannot be loaded, or the base is not the adapter's.
    """
    opened = open_model(
        source.base,
        source.adapter_dir,
        quantization=source.quantization,
        device=device,
        trust_remote_code=trust_remote_code,
    )
    opened.model.eval()
    opened.model.requires_grad_(False)
    adapter_file = None if source.adapter_dir is None else source.adapter_dir / TENSORS_FILE
    return Subject(
        source=source,
        model=opened.model,
        tokenizer=opened.tokenizer,
        base_identity=opened.base_identity,
        adapter_sha256=None if adapter_file is None else sha256_of(adapter_file),
        files=(*_base_files(source.base), *([] if adapter_file is None else [adapter_file])),
        fused=opened.fused,
    )


def _base_files(section: ModelConfig) -> tuple[Path, ...]:
    given = Path(section.model_name_or_path)
    if given.is_file():
        return (given,)
    located = locate_model(section)
    return weight_files(snapshot_folder(located), located.gguf_file)
