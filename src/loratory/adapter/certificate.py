"""The merge certificate: how far a merged model's answers are from the adapter on its base, measured and judged.

Merge law: what stands under the final name has passed. Both models compute in float32, so what is measured is the
merge and the rounding of the stored weights, not the arithmetic of a format.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from loratory.errors import IntegrityError

FILE_NAME = "merge_certificate.json"
FORMAT = 1
# Above this share of an update lost to rounding, the certificate warns about the tensor.
ROUNDING_WARNING = 0.2
# Written for readers, computed from the other values.
DERIVED = ("relative_logit_difference", "perplexity_change")


@dataclass(frozen=True, slots=True)
class Tolerance:
    """What a merged model must keep; None leaves a value unjudged.

    Attributes:
        relative_logit_difference: Largest |difference of logits| over the largest |logit|.
        mean_kl_nats: Mean over positions of KL(adapter on base || merged).
        top1_agreement: Least share of positions with the same likeliest token.
    """

    relative_logit_difference: float | None = None
    mean_kl_nats: float | None = None
    top1_agreement: float | None = None


# float32 keeps 24 bits, so only the order of summation differs. float16 keeps 11 bits and bfloat16 8: rounding every
# weight of SmolLM2-135M moves its distribution by 4e-6 and 1e-4 nats (172 positions, same likeliest token at all of
# them). The limits leave a factor of 100 to other models; a wrong merge is far above them.
TOLERANCES = {
    "float32": Tolerance(relative_logit_difference=1e-3),
    "float16": Tolerance(mean_kl_nats=1e-3, top1_agreement=0.98),
    "bfloat16": Tolerance(mean_kl_nats=1e-2, top1_agreement=0.95),
}


@dataclass(frozen=True, slots=True)
class Measurement:
    """Logits of a model against a reference on the probe prompts.

    Attributes:
        num_prompts: Probe prompts.
        num_positions: Positions compared.
        max_logit_difference: Largest absolute difference.
        logit_scale: Largest absolute logit of the reference.
        mean_kl_nats: Mean KL(reference || model).
        top1_agreement: Share of positions with the same likeliest token.
        reference_nll_nats: Mean negative log-likelihood of the prompts' own tokens by the reference, when measured.
        nll_nats: The same by the model.
    """

    num_prompts: int
    num_positions: int
    max_logit_difference: float
    logit_scale: float
    mean_kl_nats: float
    top1_agreement: float
    reference_nll_nats: float | None = None
    nll_nats: float | None = None

    @property
    def perplexity_change(self) -> float | None:
        """By which share the model's perplexity on the prompts differs from the reference's; negative is better."""
        if self.nll_nats is None or self.reference_nll_nats is None:
            return None
        return math.expm1(min(self.nll_nats - self.reference_nll_nats, 700.0))

    @property
    def relative_logit_difference(self) -> float:
        """The largest difference over the scale."""
        return self.max_logit_difference / self.logit_scale if self.logit_scale else float("inf")


@dataclass(frozen=True, slots=True)
class BaseChoice:
    """Which form of a quantised adapter's base was merged into.

    Both forms were measured, in the output format, against the adapter on the base as it was trained.

    Attributes:
        chosen: "original" (the 16 or 32-bit files) or "dequantised" (what the adapter saw).
        original: With the original base.
        dequantised: With the dequantised base.
    """

    chosen: str
    original: Measurement
    dequantised: Measurement


@dataclass(frozen=True, slots=True)
class Certificate:
    """What is written beside the merged weights.

    Attributes:
        format: Version of this file's form.
        base_source: Where the base came from.
        base_identity: sha256 over the base's weight files.
        adapter_sha256: sha256 of the adapter's weights file.
        adapter_quantization: How the base was quantised while the adapter was trained, or None.
        merged_identity: sha256 over the merged weight files.
        dtype: Format of the merged weights.
        tolerance: What had to be kept.
        measured: What was found, merged model reloaded from disk against adapter on base.
        effect: The same for the bare base: how much the adapter does at all.
        rounding_loss: Per changed tensor ||W' - W - dW|| / ||dW||, the share of the update lost to the format.
        notes: What a reader must know: lost updates, a quantised training base, untied embeddings.
        versions: Versions of the libraries that did it.
        method: "streamed" (tensor by tensor) or "in memory".
        base_choice: For an adapter trained on a quantised base, how the base to merge into was chosen.
        combined: Adapters that were combined into the one merged: folder name, weight, sha256 of its tensors.
    """

    format: int
    base_source: str
    base_identity: str
    adapter_sha256: str
    adapter_quantization: str | None
    merged_identity: str
    dtype: str
    tolerance: Tolerance
    measured: Measurement
    effect: Measurement
    rounding_loss: dict[str, float]
    notes: tuple[str, ...]
    versions: dict[str, str]
    method: str = "in memory"
    base_choice: BaseChoice | None = None
    combined: tuple[dict[str, Any], ...] = ()


def probe_logits(model: nn.Module, prompts: Sequence[Sequence[int]]) -> list[torch.Tensor]:
    """Logits after every token of each prompt, float32 [T, V] each, on the CPU; all prompts in one pass."""
    device = next(model.parameters()).device
    longest = max(map(len, prompts))
    ids_BT = torch.zeros(len(prompts), longest, dtype=torch.long)
    mask_BT = torch.zeros_like(ids_BT)
    for row, prompt in enumerate(prompts):
        ids_BT[row, : len(prompt)] = torch.tensor(list(prompt))
        mask_BT[row, : len(prompt)] = 1
    inputs = {"input_ids": ids_BT.to(device), "attention_mask": mask_BT.to(device)}
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        inputs["decoder_input_ids"] = inputs["input_ids"]
    with torch.inference_mode():
        logits_BTV = model(**inputs, use_cache=False).logits.float().cpu()
    return [logits_BTV[row, : len(prompt)] for row, prompt in enumerate(prompts)]


def measure(
    reference: Sequence[torch.Tensor],
    logits: Sequence[torch.Tensor],
    prompts: Sequence[Sequence[int]] | None = None,
) -> Measurement:
    """Compare logits [T, V] of the same prompts; anything not finite shows as infinite or NaN values.

    Args:
        reference: Logits of the model to be equalled.
        logits: Logits of the model measured.
        prompts: The prompts' tokens, for the likelihood of each after the ones before it.
    """
    scale = kl_sum = 0.0
    # torch.maximum carries a NaN on; Python's max would drop it.
    difference = torch.zeros(())
    num_same = num_positions = 0
    nll = torch.zeros(2, dtype=torch.float64)
    for index, (expected_TV, found_TV) in enumerate(zip(reference, logits, strict=True)):
        difference = torch.maximum(difference, (expected_TV - found_TV).abs().max())
        scale = max(scale, expected_TV.abs().max().item())
        log_p_TV = expected_TV.double().log_softmax(dim=-1)
        log_q_TV = found_TV.double().log_softmax(dim=-1)
        kl_sum += (log_p_TV.exp() * (log_p_TV - log_q_TV)).sum().item()
        num_same += int((expected_TV.argmax(dim=-1) == found_TV.argmax(dim=-1)).sum())
        num_positions += expected_TV.shape[0]
        if prompts is not None:
            next_T = torch.tensor(list(prompts[index])[1:])[:, None]
            nll -= torch.stack([log_TV[:-1].gather(1, next_T).sum() for log_TV in (log_p_TV, log_q_TV)])
    num_predicted = num_positions - len(reference)
    has_nll = prompts is not None and num_predicted > 0
    return Measurement(
        num_prompts=len(reference),
        num_positions=num_positions,
        max_logit_difference=difference.item(),
        logit_scale=scale,
        mean_kl_nats=kl_sum / num_positions,
        top1_agreement=num_same / num_positions,
        reference_nll_nats=nll[0].item() / num_predicted if has_nll else None,
        nll_nats=nll[1].item() / num_predicted if has_nll else None,
    )


def judge(measured: Measurement, tolerance: Tolerance) -> list[str]:
    """One sentence per value outside its tolerance; a value that is not a number is outside."""
    faults = []
    for name, limit in (
        ("relative_logit_difference", tolerance.relative_logit_difference),
        ("mean_kl_nats", tolerance.mean_kl_nats),
    ):
        value = getattr(measured, name)
        if limit is not None and not value <= limit:
            faults.append(f"{name} is {value:.3g}, allowed is at most {limit:g}")
    least = tolerance.top1_agreement
    if least is not None and not measured.top1_agreement >= least:
        faults.append(f"top1_agreement is {measured.top1_agreement:.4f}, allowed is at least {least:g}")
    return faults


def certificate_to_json(certificate: Certificate) -> str:
    """The certificate as JSON text."""
    values = asdict(certificate)
    for name in ("measured", "effect"):
        found: Measurement = getattr(certificate, name)
        values[name] |= {derived: getattr(found, derived) for derived in DERIVED}
    return json.dumps(values, indent=2, ensure_ascii=False) + "\n"


def read_certificate(folder: Path) -> Certificate | None:
    """The certificate in a model folder; None when there is none (not a model merged by loratory).

    Raises:
        IntegrityError: The file is not a certificate that this version reads.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        return None
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if values["format"] != FORMAT:
            raise ValueError(f"format {values['format']!r}; this version reads {FORMAT}")
        for name in ("measured", "effect"):
            values[name] = Measurement(**{key: v for key, v in values[name].items() if key not in DERIVED})
        values["tolerance"] = Tolerance(**values["tolerance"])
        values["notes"] = tuple(values["notes"])
        values["combined"] = tuple(values.get("combined", ()))
        if (choice := values.get("base_choice")) is not None:
            both = {key: Measurement(**choice[key]) for key in ("original", "dequantised")}
            values["base_choice"] = BaseChoice(chosen=choice["chosen"], **both)
        return Certificate(**values)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as fault:
        raise IntegrityError(f"{path}: not a merge certificate ({fault})") from fault
