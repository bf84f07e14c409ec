"""Initialisations of LoRA that look at something first: the training data, or the weights before quantisation.

EVA (arXiv 2410.07170) takes A from the activations of the data and gives ranks where they explain most; CorDA
(arXiv 2406.05223) splits weights by the covariance of activations; LoRA-GA (arXiv 2407.05000) starts along the
gradient; LoftQ (arXiv 2310.08659) makes up for the error of 4-bit weights. PEFT passes over the user's data.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, initialize_lora_eva_weights
from peft.tuners.lora.config import CordaConfig, EvaConfig, LoraGAConfig
from peft.tuners.lora.corda import preprocess_corda
from peft.tuners.lora.layer import LoraLayer
from peft.tuners.lora.loraga import preprocess_loraga
from transformers import PreTrainedModel

from loratory.adapter.lora import quiet_peft
from loratory.adapter.shards import ShardReader
from loratory.adapter.stack import ADAPTER
from loratory.data.sequence import TokenSequence
from loratory.errors import AdapterError
from loratory.model.task import task_of

ROWS = 128
"""Rows that a calibration pass looks at, at most."""
BATCH_ROWS = 4
_CONFIGS = {
    "eva": ("eva_config", EvaConfig),
    "corda": ("corda_config", CordaConfig),
    "lora_ga": ("lora_ga_config", LoraGAConfig),
}

INIT_OPTIONS = frozenset(name for name, _ in _CONFIGS.values())
"""Options of LoRA that are settings of an initialisation."""


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """What an initialisation may look at.

    Attributes:
        rows: Tokenised training rows; the first `ROWS` are used.
        original_weights: Folder of the base's safetensors.
    """

    rows: Sequence[TokenSequence]
    original_weights: Path | None

    def before(self, model: PreTrainedModel, config: LoraConfig) -> None:
        """Passes over the bare model: CorDA's covariances, LoRA-GA's gradients.

        Raises:
            AdapterError: There are no rows.
        """
        with quiet_peft():
            if config.init_lora_weights == "corda":
                self._need_rows(model, "corda")
                preprocess_corda(model, config, run_model=lambda: self._run(model))
            elif config.init_lora_weights == "lora_ga":
                self._need_rows(model, "lora_ga")
                preprocess_loraga(model, config, lambda: self._accumulate(model))
                model.zero_grad(set_to_none=True)

    def after(self, model: PeftModel, init: str) -> None:
        """What needs the adapter in place: EVA's directions, LoftQ's correction.

        Raises:
            AdapterError: There are no rows, or no original weights.
        """
        if init == "eva":
            base = model.get_base_model()
            self._need_rows(base, "eva")
            has_labels = task_of(base) == "causal_lm"
            batches = list(self._batches(model.device, has_labels=has_labels))
            initialize_lora_eva_weights(model, batches, show_progress_bar=False)
        elif init == "loftq":
            files = [] if self.original_weights is None else sorted(self.original_weights.glob("*.safetensors"))
            if not files:
                raise AdapterError(
                    "adapter.init: loftq reads the weights before quantisation from safetensors files beside the "
                    "model's config.json, and this base has none; use default"
                )
            _correct_quantisation(model, ShardReader(files))

    def _need_rows(self, model: PreTrainedModel, init: str) -> None:
        allowed = ("causal_lm",) if init == "lora_ga" else ("causal_lm", "seq_cls")
        if task_of(model) not in allowed:
            raise AdapterError(
                f"adapter.init: {init} looks at rows as language models read them, and {type(model).__name__} is "
                "another kind of model; use default"
            )
        if not self.rows:
            raise AdapterError(f"adapter.init: {init} looks at training rows, and none were given here; use default")

    def _batches(
        self, device: torch.device, *, num_rows: int = BATCH_ROWS, has_labels: bool = True
    ) -> Iterator[dict[str, torch.Tensor]]:
        """Right-padded rows; labels are -100 where a token is not learnt."""
        rows = self.rows[:ROWS]
        for start in range(0, len(rows), num_rows):
            part = rows[start : start + num_rows]
            longest = max(len(row) for row in part)
            ids_BT = torch.zeros(len(part), longest, dtype=torch.int64)
            mask_BT, labels_BT = torch.zeros_like(ids_BT), torch.full_like(ids_BT, -100)
            for index, row in enumerate(part):
                ids = torch.from_numpy(row.token_ids.astype("int64"))
                ids_BT[index, : len(row)], mask_BT[index, : len(row)] = ids, 1
                learnt = torch.from_numpy(row.weights > 0)
                labels_BT[index, : len(row)][learnt] = ids[learnt]
            batch = {"input_ids": ids_BT, "attention_mask": mask_BT} | ({"labels": labels_BT} if has_labels else {})
            yield {name: tensor.to(device) for name, tensor in batch.items()}

    @torch.no_grad()
    def _run(self, model: PreTrainedModel) -> None:
        # CorDA's covariances are of one row without padding each.
        for batch in self._batches(model.device, num_rows=1, has_labels=False):
            model(**batch)

    def _accumulate(self, model: PreTrainedModel) -> None:
        for batch in self._batches(model.device):
            model(**batch).loss.backward()


@torch.no_grad()
def _correct_quantisation(model: PeftModel, reader: ShardReader) -> None:
    """Let each update begin as the best one of its rank for what quantisation took from the weight.

    One pass of LoftQ's algorithm 1: W - Q is split by its singular values. PEFT's own needs a GPU, reads one file, and
    leaves out the update's scale.
    """
    from bitsandbytes.functional import dequantize_4bit

    base = model.get_base_model()
    for name, layer in base.named_modules():
        if not isinstance(layer, LoraLayer) or ADAPTER not in layer.lora_A:
            continue
        packed: Any = layer.get_base_layer().weight
        names = (f"{name}.weight", f"{name.removeprefix(f'{base.base_model_prefix}.')}.weight")
        found = next((key for key in names if key in reader.tensors), None)
        if getattr(packed, "quant_state", None) is None or found is None:
            raise AdapterError(
                f"adapter.init: loftq makes up for the error of 4-bit weights, and {name} has "
                f"{'no original in the files' if found is None else 'none'}; leave it out of adapter.targets or use "
                "default"
            )
        kept_OI = dequantize_4bit(packed.data, packed.quant_state).float()
        lost_OI = reader.float32(found).to(kept_OI.device) - kept_OI
        rank = layer.r[ADAPTER]
        left_OM, sizes_M, right_MI = torch.linalg.svd(lost_OI, full_matrices=False)
        if len(sizes_M) < rank:
            raise AdapterError(f"adapter.rank: {rank} is more than {name} has room for; take {len(sizes_M)} or less")
        root_R = sizes_M[:rank].sqrt()
        layer.lora_A[ADAPTER].weight.copy_(root_R[:, None] * right_MI[:rank])
        layer.lora_B[ADAPTER].weight.copy_(left_OM[:, :rank] * root_R / layer.scaling[ADAPTER])


def original_weights(source: str) -> Path | None:
    """The folder that a base was loaded from, if it is one."""
    path = Path(source)
    return path if path.is_dir() else None


def with_init_options(init: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """LoRA's further options, with the settings object that a data-driven initialisation needs."""
    ready = dict(options)
    if init in _CONFIGS:
        name, kind = _CONFIGS[init]
        if ready.get(name) is None:
            ready[name] = kind()
    return ready
