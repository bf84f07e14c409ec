"""Whole runs with methods and initialisations of PEFT: they learn, resume, load with plain PEFT, and answer."""

import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from rich.console import Console
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from typer.testing import CliRunner

from loratory.adapter import AttachedAdapter, attach_adapter, load_adapter
from loratory.cli.app import make_app
from loratory.config import RunConfig
from loratory.config.method_capabilities import capabilities
from loratory.data.records import Origin, Record, Turn
from loratory.engine import training
from loratory.engine.result import TrainingResult
from loratory.engine.training import run_training
from loratory.errors import AdapterError
from loratory.infer.session import Session, open_session
from loratory.run import read_metrics

MakeConfig = Callable[..., RunConfig]
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*is_gradient_checkpointing:FutureWarning",
    "ignore:Position ids are not supported",
    "ignore:Unsupported layer",
    "ignore:Sparse invariant",
)
IDS = torch.randint(5, 300, (2, 7), generator=torch.Generator().manual_seed(1))
# Rates at which three steps of a tiny model go down for sure.
METHODS: dict[str, dict[str, Any]] = {
    "adalora": {"options": {"init_r": 6, "target_r": 3, "deltaT": 1, "tinit": 1, "tfinal": 1}},
    "ia3": {},
    "prefix_tuning": {"options": {"num_virtual_tokens": 4}},
    "p_tuning": {"options": {"num_virtual_tokens": 4, "encoder_hidden_size": 16}},
}
EVERY = [name for name in capabilities() if name not in ("lora", "beft")]  # beft: for layers with a bias
INITS = ("eva", "corda", "lora_ga")


def settings(method: str) -> dict[str, Any]:
    is_init = method in (*INITS, "loftq")
    fields: dict[str, Any] = {"rank": 4, "init": method} if is_init else {"method": method, **METHODS[method]}
    return {
        "quantization.load_in_4bit": method == "loftq",
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


@pytest.mark.parametrize("method", EVERY)
def test_every_method_trains_each_of_its_tensors_and_loads_as_it_was(
    method: str, make_config: MakeConfig, tiny_llama_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = capabilities()[method]
    options = facts["options"]
    if method == "trainable_tokens":
        options = {"token_indices": AutoTokenizer.from_pretrained(tiny_llama_dir).encode("cancel")[-2:]}
    started: list[tuple[torch.nn.Module, dict[str, torch.Tensor], float]] = []

    def attach(model: PreTrainedModel, *given: Any, **more: Any) -> AttachedAdapter:
        bare = logits(model)
        attached = attach_adapter(model, *given, **more)
        moved = float((logits(attached.model.eval()) - bare).abs().max())
        trained = {name: p.detach().clone() for name, p in attached.model.named_parameters() if p.requires_grad}
        started.append((attached.model, trained, moved))
        return attached

    monkeypatch.setattr(training, "attach_adapter", attach)
    fields = {"adapter.method": method, "adapter.options": options, "train.batch_size": 12, "train.save_steps": 9}
    result = train(make_config(fields))
    ((model, before, moved_at_start),) = started
    assert result.step == 2
    assert (moved_at_start < 1e-5) == (facts["start"] < 1e-5)
    still = [name for name, p in model.named_parameters() if name in before and torch.equal(p, before[name])]
    assert still == []
    base = AutoModelForCausalLM.from_pretrained(tiny_llama_dir).eval()
    loaded = load_adapter(base, result.final_model, trainable=False, base_identity=None)
    torch.testing.assert_close(logits(loaded), logits(model.eval()), rtol=0, atol=1e-6)


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


@pytest.mark.parametrize("method", ["adalora", "p_tuning", "eva", "corda", "lora_ga", "loftq"])
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


@pytest.mark.parametrize("init", ["default", *INITS])
def test_initialisations_look_at_the_rows_of_the_run(init: str, tmp_path: Path, tiny_llama_dir: Path) -> None:
    """Two runs on other rows, at a rate that moves nothing: what differs is where the adapters began."""
    starts = []
    for name, word in (("first", "cancel roaming"), ("second", "answer 9.9 question")):
        rows = [{"instruction": f"{word} {i}", "input": "", "output": f"{word} {i * i}"} for i in range(8)]
        (tmp_path / f"{name}.json").write_text(json.dumps(rows))
        run_file = tmp_path / f"{name}.yaml"
        run_file.write_text(
            f"model: {{model_name_or_path: {tiny_llama_dir}}}\n"
            f"data: {{train: {tmp_path / name}.json, template: alpaca}}\n"
            f"adapter: {{rank: 4, init: {init}}}\n"
            "train: {batch_size: 8, num_epochs: 1, learning_rate: 1.0e-30, num_threads: 1}\n"
            f"run: {{output_dir: {tmp_path}, name: {name}}}\n"
        )
        result = CliRunner().invoke(make_app(), ["train", str(run_file)])
        assert result.exit_code == 0, result.output
        starts.append(load_file(tmp_path / name / "final_model" / "adapter_model.safetensors"))
    first, second = starts
    same = [name for name, tensor in first.items() if tensor.shape == second[name].shape and "lora_A" in name]
    is_equal = all(torch.equal(first[name], second[name]) for name in same)
    assert is_equal == (init == "default")


def test_adalora_gives_up_ranks(make_config: MakeConfig) -> None:
    result = train(config_of(make_config, "adalora"))
    tensors = load_file(result.final_model / "adapter_model.safetensors")
    ranks = [int((tensor != 0).sum()) for name, tensor in tensors.items() if "lora_E" in name]
    assert sum(ranks) == 3 * len(ranks)
    assert max(ranks) > min(ranks)


def test_a_method_with_a_base_in_four_bits_learns(make_config: MakeConfig) -> None:
    fields = {"adapter.method": "oft", "adapter.options": {"oft_block_size": 8}, "quantization.load_in_4bit": True}
    result = train(make_config({**fields, "train.logging_steps": 1, "train.learning_rate": 0.02}))
    losses = [line["loss"] for line in read_metrics(result.run_dir / "metrics.jsonl") if "loss" in line]
    assert sum(losses[-3:]) < sum(losses[:3])


def test_loftq_without_four_bits_is_refused(make_config: MakeConfig) -> None:
    with pytest.raises(AdapterError, match=r"loftq makes up for the error of 4-bit weights"):
        train(make_config({"adapter.init": "loftq"}))
