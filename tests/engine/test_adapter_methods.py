"""Whole runs with methods and initialisations of PEFT: they learn, resume, load with plain PEFT, and answer."""

import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from rich.console import Console
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from loratory.config import RunConfig
from loratory.data.records import Origin, Record, Turn
from loratory.engine.training import TrainingResult, run_training
from loratory.errors import AdapterError
from loratory.infer.session import Session, open_session
from loratory.run import read_metrics

MakeConfig = Callable[..., RunConfig]
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*is_gradient_checkpointing:FutureWarning",
    "ignore:Position ids are not supported",
    "ignore:Unsupported layer",
)
IDS = torch.randint(5, 300, (2, 7), generator=torch.Generator().manual_seed(1))
# Rates at which three steps of a tiny model go down for sure.
METHODS: dict[str, dict[str, Any]] = {
    "adalora": {"options": {"init_r": 6, "target_r": 3, "deltaT": 1, "tinit": 1, "tfinal": 1}},
    "loha": {"options": {"r": 4}},
    "oft": {"options": {"oft_block_size": 8}},
    "ia3": {},
    "vera": {"options": {"r": 16}},
    "miss": {"options": {"r": 8}},
    "hra": {"options": {"r": 4}},
    "prompt_tuning": {"options": {"num_virtual_tokens": 4}},
    "prefix_tuning": {"options": {"num_virtual_tokens": 4}},
    "p_tuning": {"options": {"num_virtual_tokens": 4, "encoder_hidden_size": 16}},
}
INITS = ("eva", "corda", "lora_ga")


def settings(method: str) -> dict[str, Any]:
    fields: dict[str, Any] = {"rank": 4, "init": method} if method in INITS else {"method": method, **METHODS[method]}
    return {
        "train.batch_size": 8,
        "train.num_epochs": 2,
        "train.learning_rate": 0.02,
        "train.save_steps": 2,
        "train.logging_steps": 1,
        "train.schedule": "constant",
        **{f"adapter.{name}": value for name, value in fields.items()},
    }


def train(config: RunConfig, **more: Any) -> TrainingResult:
    return run_training(config, console=Console(file=io.StringIO()), **more)


def config_of(make_config: MakeConfig, method: str, name: str = "run") -> RunConfig:
    return make_config({**settings(method), "run.name": name})


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=IDS, attention_mask=torch.ones_like(IDS)).logits
    return found[:, -IDS.shape[1] :]


def session_of(config: RunConfig, result: TrainingResult) -> Session:
    return open_session(config.model, result.final_model, "alpaca", contract_file=result.run_dir / "template.json")


@pytest.mark.parametrize("method", [*METHODS, *INITS])
def test_a_run_learns_loads_with_plain_peft_and_answers(
    method: str, make_config: MakeConfig, tiny_llama_dir: Path
) -> None:
    config = config_of(make_config, method)
    result = train(config)
    losses = [line["loss"] for line in read_metrics(result.run_dir / "metrics.jsonl") if "loss" in line]
    assert len(losses) == 6
    assert all(math.isfinite(loss) for loss in losses)
    assert sum(losses[3:]) < sum(losses[:3])
    session = session_of(config, result)
    base = AutoModelForCausalLM.from_pretrained(tiny_llama_dir)
    bare = logits(base)
    plain = PeftModel.from_pretrained(base, str(result.final_model)).eval()
    torch.testing.assert_close(logits(plain), logits(session.model), rtol=0, atol=2e-6)
    assert (logits(plain) - bare).abs().max() > 1e-5
    rows = [Record((Turn("user", "cancel " * (i + 1)), Turn("assistant", "ok")), Origin("r", i)) for i in range(3)]
    prompts = [session.template.generation_prompt(row) for row in rows]
    made = [_greedy(plain, prompt, session.template.stop_token_ids) for prompt in prompts]
    assert session.generate(prompts, max_new_tokens=6) == made
    assert [row.label for row in session.predict(rows, max_new_tokens=6)] == ["ok"] * 3


def _greedy(model: PeftModel, prompt: list[int], stops: Any) -> list[int]:
    ids = torch.tensor([list(prompt)])
    made = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=6,
        eos_token_id=list(stops),
        pad_token_id=0,
    )[0, len(prompt) :].tolist()
    return made[: next((i for i, token in enumerate(made) if token in stops), len(made))]


@pytest.mark.parametrize("method", ["adalora", "prompt_tuning", "p_tuning", "vera", "eva", "corda", "lora_ga"])
def test_a_resumed_run_is_the_unbroken_one_to_the_bit(method: str, make_config: MakeConfig) -> None:
    unbroken = train(config_of(make_config, method, "unbroken"))
    config = config_of(make_config, method, "paused")
    assert train(config, stop_after_step=3).is_paused
    resumed = train(config, resume=True)
    assert resumed.step == unbroken.step == 6
    expected = load_file(unbroken.final_model / "adapter_model.safetensors")
    found = load_file(resumed.final_model / "adapter_model.safetensors")
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert torch.equal(tensor, expected[name]), name


def test_adalora_gives_up_ranks(make_config: MakeConfig) -> None:
    result = train(config_of(make_config, "adalora"))
    tensors = load_file(result.final_model / "adapter_model.safetensors")
    ranks = [int((tensor != 0).sum()) for name, tensor in tensors.items() if "lora_E" in name]
    assert sum(ranks) == 3 * len(ranks)
    assert max(ranks) > min(ranks)


def test_loftq_without_four_bits_is_refused(make_config: MakeConfig) -> None:
    with pytest.raises(AdapterError, match=r"loftq makes up for the error of 4-bit weights"):
        train(make_config({"adapter.init": "loftq"}))
