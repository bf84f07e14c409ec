"""A model ready to answer: base, adapter, tokenizer and the template that the adapter was trained with.

Opened once by predict, chat and serve. The template's contract, written by training, is checked against the template
bound here, because an adapter under another template answers worse without any other sign.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from loratory.adapter.load import load_adapter
from loratory.config import ModelConfig, QuantizationConfig
from loratory.data.records import Record
from loratory.data.templates import BoundTemplate, bind_template
from loratory.errors import AdapterError, IntegrityError
from loratory.infer.classify import classify_records
from loratory.infer.fusion import FusedAdapter, fusion_obstacle
from loratory.infer.generate import generate
from loratory.infer.label_prediction import predict_labels
from loratory.infer.predict import Prediction, predict_records
from loratory.infer.sampling import Sampling
from loratory.infer.text_to_text import answer_records
from loratory.model import LoadedModel, closes_prompt, load_model
from loratory.model.task import ClassHead, task_of
from loratory.tree.eligibility import base_of


@dataclass(frozen=True, slots=True, eq=False)
class OpenModel:
    """A model as it answers, before a template is bound.

    Attributes:
        model: The model, plain or with its adapter.
        tokenizer: The model's tokenizer.
        base_identity: Identity of the base's weights.
        fused: The adapter merged in memory, when it is.
    """

    model: PreTrainedModel | PeftModel
    tokenizer: PreTrainedTokenizerBase
    base_identity: str
    fused: FusedAdapter | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Session:
    """A model with its tokenizer and template.

    Attributes:
        model: The model, plain or with its adapter.
        tokenizer: The model's tokenizer.
        template: The template bound to that tokenizer.
        fused: The adapter merged in memory, when it is.
    """

    model: PreTrainedModel | PeftModel
    tokenizer: PreTrainedTokenizerBase
    template: BoundTemplate
    fused: FusedAdapter | None = None

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        batch_size: int | None = None,
        sampling: Sampling | None = None,
        on_progress: Callable[[int], None] | None = None,
        on_token: Callable[[int, int], None] | None = None,
    ) -> list[list[int]]:
        """`loratory.infer.generate.generate` with this model and the template's stop tokens."""
        return generate(
            self.model,
            prompts,
            stop_token_ids=self.template.stop_token_ids,
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
            sampling=sampling,
            on_progress=on_progress,
            on_token=on_token,
        )

    def predict(
        self,
        records: Sequence[Record],
        *,
        max_new_tokens: int = 256,
        batch_size: int | None = None,
        sampling: Sampling | None = None,
        on_progress: Callable[[int], None] | None = None,
    ) -> list[Prediction]:
        """Answers of `loratory.infer.predict.predict_records`, or of a classification model the names of classes."""
        task = task_of(base_of(self.model))
        if task == "seq_cls":
            return classify_records(
                self.model, self.tokenizer, self.template, records, batch_size=batch_size, on_progress=on_progress
            )
        answer = answer_records if task == "seq_2_seq_lm" else predict_records
        return answer(
            self.model,
            self.tokenizer,
            self.template,
            records,
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
            sampling=sampling,
            on_progress=on_progress,
        )

    def predict_labels(
        self,
        records: Sequence[Record],
        labels: Sequence[str],
        *,
        batch_size: int | None = None,
        with_logprobs: bool = False,
        on_progress: Callable[[int], None] | None = None,
    ) -> list[Prediction]:
        """`loratory.infer.label_prediction.predict_labels` with this model, tokenizer and template."""
        return predict_labels(
            self.model,
            self.tokenizer,
            self.template,
            records,
            labels,
            batch_size=batch_size,
            with_logprobs=with_logprobs,
            on_progress=on_progress,
        )

    @contextmanager
    def without_adapter(self) -> Iterator[None]:
        """The base model's own answers inside the block; the adapter's again after it, unchanged.

        Raises:
            AdapterError: When there is no adapter, or its base weights were not kept.
        """
        if not isinstance(self.model, PeftModel):
            raise AdapterError("this model has no separate adapter, so it cannot be switched off")
        if self.fused is not None:
            self.fused.off()
        try:
            with self.model.disable_adapter():
                yield
        finally:
            if self.fused is not None:
                self.fused.on()


def open_session(
    base: ModelConfig,
    adapter_dir: Path | None,
    template: str,
    *,
    quantization: QuantizationConfig | None = None,
    contract_file: Path | None = None,
    force_template: bool = False,
    keep_base: bool = True,
    device: torch.device | str | None = None,
    trust_remote_code: bool = False,
    labels: Sequence[str] = (),
) -> Session:
    """Load base, adapter and template for inference.

    A float32 adapter is merged into the weights in memory, which decodes faster and gives the same answers.

    Args:
        base: The base model.
        adapter_dir: The adapter's folder; None answers with the base alone.
        template: Template name, as in the configuration.
        quantization: 4 or 8 bits for the base.
        contract_file: The run's `template.json`; None when there is none.
        force_template: Go on when the contract differs.
        keep_base: Keep the base weights beside the merged ones, so that the adapter can be switched off.
        device: Where the weights go; default the first GPU, else the CPU.
        trust_remote_code: Run code from the model's own repository.
        labels: Names of the classes of a classification model.

    Raises:
        IntegrityError: The template bound here is not the one of the contract, or the base not the adapter's.
        ModelError: The base cannot be loaded.
        AdapterError: The adapter cannot be loaded.
        TemplateError: The template is unknown.
    """
    head = ClassHead(tuple(labels), None if adapter_dir is None else 0) if labels else None
    loaded = load_model(base, quantization=quantization, device=device, trust_remote_code=trust_remote_code, head=head)
    bound = bind_template(template, loaded.tokenizer, closes_prompt=closes_prompt(base))
    if contract_file is not None and not force_template:
        check_contract(contract_file, bound.contract())
    opened = _with_adapter(loaded, adapter_dir, keep_base=keep_base)
    return Session(opened.model, opened.tokenizer, bound, opened.fused)


def open_model(
    base: ModelConfig,
    adapter_dir: Path | None,
    *,
    quantization: QuantizationConfig | None = None,
    keep_base: bool = False,
    device: torch.device | str | None = None,
    trust_remote_code: bool = False,
) -> OpenModel:
    """Load base and adapter as `open_session` does, without a template: for what needs none.

    Raises:
        IntegrityError: The base is not the adapter's.
        ModelError: The base cannot be loaded.
        AdapterError: The adapter cannot be loaded.
    """
    loaded = load_model(base, quantization=quantization, device=device, trust_remote_code=trust_remote_code)
    return _with_adapter(loaded, adapter_dir, keep_base=keep_base)


def _with_adapter(loaded: LoadedModel, adapter_dir: Path | None, *, keep_base: bool) -> OpenModel:
    if adapter_dir is None:
        return OpenModel(loaded.model, loaded.tokenizer, loaded.identity)
    model = load_adapter(loaded.model, adapter_dir, trainable=False, base_identity=loaded.identity)
    fused = FusedAdapter(model, keep_base=keep_base) if fusion_obstacle(model) is None else None
    return OpenModel(model, loaded.tokenizer, loaded.identity, fused)


def check_contract(file: Path, contract: Mapping[str, object]) -> None:
    """Compare the template's contract with the one that training wrote.

    Raises:
        IntegrityError: The file is unreadable or its contract differs; the message names what differs.
    """
    try:
        trained = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise IntegrityError(f"{file}: the template contract of the run cannot be read ({error})") from error
    if not isinstance(trained, dict):
        raise IntegrityError(f"{file}: the template contract is not a JSON object")
    compare_contracts(trained, contract, place=str(file))


def compare_contracts(trained: Mapping[str, object], here: Mapping[str, object], *, place: str) -> None:
    """Compare the contract of training with that of the template at hand.

    Args:
        trained: As training wrote it.
        here: `BoundTemplate.contract()`.
        place: Where the first one stands, for the message.

    Raises:
        IntegrityError: They differ; the message names what differs.
    """
    here = json.loads(json.dumps(here))
    if dict(trained) == here:
        return
    differing = sorted(key for key in trained.keys() | here.keys() if trained.get(key) != here.get(key))
    details = "; ".join(f"{key}: trained with {trained.get(key)!r}, now {here.get(key)!r}" for key in differing)
    raise IntegrityError(
        f"{place}: the adapter was trained with another prompt template ({details}). Use the run's own template and "
        "tokenizer, or give --force-template if the difference is meant"
    )
