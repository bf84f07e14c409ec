"""Every objective with LoRA, LoRA on a base in 4 bits, and full fine-tuning: real steps, a result that loads."""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from loratory.config import RunConfig
from loratory.engine.training import run_training

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

TUNINGS: Mapping[str, Mapping[str, Any]] = {
    "lora": {},
    "qlora": {"quantization.load_in_4bit": True, "quantization.bnb_4bit_quant_type": "nf4"},
    "full": {"adapter.method": "full"},
}
# What the loss is before anything is learnt, where it does not depend on the model.
START = {"dpo": math.log(2), "kto": 0.5}


@pytest.fixture(scope="module")
def rows_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A factory: objective -> a file with eight rows of its kind."""
    folder = tmp_path_factory.mktemp("rows")

    def make(objective: str) -> Path:
        questions = [f"question {i} about {'plan' if i % 2 else 'roaming'}" for i in range(8)]
        match objective:
            case "kto":
                rows: list[dict[str, object]] = [
                    {"prompt": q, "completion": f"code_{i}", "label": bool(i % 2)} for i, q in enumerate(questions)
                ]
            case "classification":
                rows = [{"instruction": q, "output": q.split()[-1]} for q in questions]
            case "sft":
                rows = [{"instruction": q, "output": f"code_{i}"} for i, q in enumerate(questions)]
            case _:
                rows = [{"prompt": q, "chosen": f"yes {i}", "rejected": f"no {i}"} for i, q in enumerate(questions)]
        path = folder / f"{objective}.json"
        path.write_text(json.dumps(rows))
        return path

    return make


@pytest.mark.parametrize("tuning", TUNINGS)
@pytest.mark.parametrize("objective", ["sft", "reward", "dpo", "kto", "orpo", "simpo", "classification"])
def test_two_steps_and_a_loadable_result(
    make_config: Callable[..., RunConfig],
    rows_of: Callable[[str], Path],
    tiny_llama_dir: Path,
    objective: str,
    tuning: str,
) -> None:
    if tuning == "qlora":
        pytest.importorskip("bitsandbytes")
    settings = {"objective.name": objective, "data.train": str(rows_of(objective)), "train.batch_size": 8}
    # The same eight rows twice, so the second loss can be compared with the first.
    steps = {"train.max_steps": 2, "train.learning_rate": 2e-3, "train.schedule": "constant"}
    result = run_training(make_config({**settings, **steps, **TUNINGS[tuning]}))
    lines = [json.loads(line) for line in (result.run_dir / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines]
    assert len(losses) == 2
    assert all(math.isfinite(value) for value in losses)
    assert losses[1] < losses[0]
    if objective in START:
        assert losses[0] == pytest.approx(START[objective], abs=1e-4)
    weights = _load(result.final_model, tiny_llama_dir, objective, is_full=tuning == "full")
    assert all(bool(torch.isfinite(tensor).all()) for tensor in weights)


def _load(final: Path, base: Path, objective: str, *, is_full: bool) -> list[torch.Tensor]:
    """Load the result by transformers and PEFT alone; the weights that were trained."""
    labels = {"reward": 1, "classification": 2}.get(objective)
    kind: Any = AutoModelForCausalLM if labels is None else AutoModelForSequenceClassification
    options = {} if labels is None else {"num_labels": labels}
    if is_full:
        model, info = kind.from_pretrained(final, output_loading_info=True)
        assert not info["missing_keys"]
        assert not info["unexpected_keys"]
        return list(model.state_dict().values())
    PeftModel.from_pretrained(kind.from_pretrained(base, **options), final)
    tensors = load_file(final / "adapter_model.safetensors")
    assert any(bool(tensor.any()) for name, tensor in tensors.items() if "lora_B" in name)
    assert any("score" in name for name in tensors) == (labels is not None)
    return list(tensors.values())
