import json
from pathlib import Path

import pytest
import torch

from loratory.config import TrainConfig
from loratory.engine import random_state
from loratory.engine.optimizer import NamedOptimizer, make_optimizer, trainable_parameters
from loratory.engine.progress import Progress, Window
from loratory.engine.state import (
    TrainingState,
    load_optimizer,
    load_training_state,
    load_weights,
    save_optimizer,
    save_training_state,
    save_weights,
)
from loratory.errors import IntegrityError, NumericsError


def model(seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    # 64 * 80 numbers: bitsandbytes keeps tensors below 4096 in 32 bits.
    return torch.nn.Sequential(torch.nn.Linear(80, 64), torch.nn.LayerNorm(64), torch.nn.Linear(64, 3))


def train(network: torch.nn.Module, named: NamedOptimizer, steps: range) -> None:
    for step in steps:
        inputs = torch.randn(5, 80, generator=torch.Generator().manual_seed(step))
        named.set_rate(1 / (step + 1))
        named.optimizer.zero_grad()
        network(inputs).square().sum().backward()
        named.optimizer.step()


@pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU:UserWarning")
@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "adamw_8bit", "paged_adamw", "paged_adamw_8bit"])
def test_an_optimizer_goes_on_bit_identically(tmp_path: Path, optimizer: str) -> None:
    if optimizer not in ("adamw", "sgd"):
        pytest.importorskip("bitsandbytes")
    section = TrainConfig.model_validate({"optimizer": optimizer, "weight_decay": 0.1, "loraplus_lr_ratio": 2.0})
    network = model()
    named = make_optimizer(trainable_parameters(network), section)
    train(network, named, range(3))
    save_weights(tmp_path / "weights.safetensors", trainable_parameters(network))
    save_optimizer(tmp_path, named)
    train(network, named, range(3, 6))

    resumed = model(seed=1)
    again = make_optimizer(trainable_parameters(resumed), section)
    load_weights(tmp_path / "weights.safetensors", trainable_parameters(resumed))
    load_optimizer(tmp_path, again)
    train(resumed, again, range(3, 6))
    for one, other in zip(network.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)


def test_no_pickle_in_a_checkpoint(tmp_path: Path) -> None:
    network = model()
    named = make_optimizer(trainable_parameters(network), TrainConfig())
    train(network, named, range(1))
    save_optimizer(tmp_path, named)
    save_training_state(tmp_path, TrainingState(Progress(step=1), [random_state.capture()], {"a": 1}))
    assert {p.suffix for p in tmp_path.iterdir()} == {".json", ".safetensors"}


def test_progress_and_generators_come_back(tmp_path: Path) -> None:
    random_state.seed_everything(4)
    window = Window(loss_sum=0.1, count=3.0, metrics={"token_accuracy": (1.0, 3.0)})
    progress = Progress(step=7, best_step=5, best_loss=1 / 3, is_evaluation_pending=True, window=window)
    states = [random_state.capture(), random_state.capture()]
    save_training_state(tmp_path, TrainingState(progress, states, {"base": "b"}))
    loaded = load_training_state(tmp_path)
    assert loaded.progress == progress
    assert loaded.identity == {"base": "b"}
    assert len(loaded.random) == 2
    assert torch.equal(loaded.random[1].tensors["cpu"], states[1].tensors["cpu"])


def test_progress_of_another_version_is_named(tmp_path: Path) -> None:
    save_training_state(tmp_path, TrainingState(Progress(), [random_state.capture()], {}))
    path = tmp_path / "training_state.json"
    content = json.loads(path.read_text())
    del content["progress"]["window"]
    path.write_text(json.dumps(content))
    with pytest.raises(IntegrityError, match="another version"):
        load_training_state(tmp_path)


def test_weights_of_another_model_are_refused_whole(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_weights(path, trainable_parameters(model()))
    other = torch.nn.Sequential(torch.nn.Linear(80, 64), torch.nn.LayerNorm(64), torch.nn.Linear(64, 4))
    before = [p.detach().clone() for p in other.parameters()]
    with pytest.raises(IntegrityError, match=r"2\.weight.*\[3, 64\].*\[4, 64\]"):
        load_weights(path, trainable_parameters(other))
    assert all(torch.equal(a, b) for a, b in zip(before, other.parameters(), strict=True))


def test_non_finite_weights_are_not_saved(tmp_path: Path) -> None:
    network = model()
    with torch.no_grad():
        next(network.parameters())[0, 0] = float("inf")
    with pytest.raises(NumericsError, match=r"0\.weight"):
        save_weights(tmp_path / "weights.safetensors", trainable_parameters(network))
    assert list(tmp_path.iterdir()) == []


def test_moments_of_other_parameters_are_refused(tmp_path: Path) -> None:
    named = make_optimizer(trainable_parameters(model()), TrainConfig())
    save_optimizer(tmp_path, named)
    with pytest.raises(IntegrityError, match="other parameters"):
        load_optimizer(tmp_path, make_optimizer(trainable_parameters(torch.nn.Linear(2, 2)), TrainConfig()))
