"""Several runs on one base: each is the run it would be alone; to the bit, or to rounding where passes are shared."""

import hashlib
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from loratory.config import RunConfig
from loratory.engine import joint_pass
from loratory.engine.joint_pass import compute_jointly, groups
from loratory.engine.shared_base import shell_of
from loratory.engine.step import JoinableStep
from loratory.engine.together import RunOutcome, train_together
from loratory.engine.training import run_training
from loratory.errors import ConfigError, DataError, NumericsError
from loratory.model import load_model
from loratory.run import read_metrics

MakeConfig = Callable[..., RunConfig]
LORAS: tuple[dict[str, Any], ...] = (
    {"adapter.rank": 4, "train.learning_rate": 0.01},
    {"adapter.rank": 8, "adapter.alpha": 4.0, "adapter.use_rslora": True, "train.learning_rate": 0.02},
    {"adapter.rank": 2, "adapter.targets": ["q_proj", "v_proj"], "adapter.dropout": 0.3, "train.seed": 7},
    {"adapter.rank": 4, "adapter.use_dora": True, "train.batch_size": 6, "train.num_epochs": 2},
)


def named(make_config: MakeConfig, kind: str, *, only: tuple[int, ...] = (0, 1, 2, 3), **more: Any) -> list[RunConfig]:
    shared = {"train.micro_batch_size": 2, "data.val_size": 4, "train.eval_steps": 2, **more}
    return [make_config({**shared, **LORAS[i], "run.name": f"{kind}-{i}"}) for i in only]


def together(configs: list[RunConfig], **options: Any) -> list[RunOutcome]:
    silent = [Console(file=io.StringIO()) for _ in configs]
    return train_together(configs, consoles=silent, **options)


def curve(folder: Path) -> list[tuple[object, ...]]:
    kept = ("step", "loss", "eval_loss", "grad_norm", "learning_rate")
    return [tuple(line.get(name) for name in kept) for line in read_metrics(folder / "metrics.jsonl")]


def weights(outcome: RunOutcome) -> dict[str, torch.Tensor]:
    assert outcome.result is not None, outcome.error
    return load_file(outcome.result.final_model / "adapter_model.safetensors")


def alone(config: RunConfig, **options: Any) -> RunOutcome:
    return RunOutcome(run_training(config, console=Console(file=io.StringIO()), **options), None)


def test_each_run_is_bit_for_bit_the_run_it_would_be_alone(make_config: MakeConfig) -> None:
    """Different ranks, scales, targets, rates, seeds, lengths, dropout and DoRA, all at once."""
    shared = together(named(make_config, "shared"))
    for config, outcome in zip(named(make_config, "alone"), shared, strict=True):
        single = alone(config)
        assert single.result is not None
        assert outcome.result is not None
        assert curve(outcome.result.run_dir) == curve(single.result.run_dir)
        expected = weights(single)
        for name, tensor in weights(outcome).items():
            assert torch.equal(tensor, expected[name]), name


def test_small_steps_share_passes_and_losses_are_those_of_the_runs_alone(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches of one pass; one of the runs has dropout and another DoRA, so that they go by themselves."""
    shared_by: list[int] = []

    def counted(steps: Sequence[JoinableStep]) -> None:
        shared_by.append(len(steps))
        compute_jointly(steps)

    monkeypatch.setattr("loratory.engine.together.compute_jointly", counted)
    options: dict[str, Any] = {"train.micro_batch_size": None, "train.max_steps": 8}
    shared = together([*named(make_config, "shared", **options), *named(make_config, "more", only=(0,), **options)])
    singles = [alone(config) for config in named(make_config, "alone", **options)]
    assert shared_by[1:8] == [3] * 7
    for single, outcome in zip((*singles, singles[0]), shared, strict=True):
        assert single.result is not None
        assert outcome.result is not None, outcome.error
        for one, other in zip(curve(outcome.result.run_dir), curve(single.result.run_dir), strict=True):
            assert one == pytest.approx(other, abs=1e-5)
        expected = weights(single)
        for name, tensor in weights(outcome).items():
            torch.testing.assert_close(tensor, expected[name], rtol=0, atol=1e-4, msg=name)


def test_steps_are_grouped_in_their_order_up_to_the_limit_of_a_pass(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def step(num_tokens: int, max_tokens: int | None = None) -> Any:
        return SimpleNamespace(
            batch=SimpleNamespace(tree=SimpleNamespace(num_tokens=num_tokens)), max_tokens=max_tokens
        )

    monkeypatch.setattr(joint_pass, "MAX_TOKENS", 100)
    sizes = [[s.batch.tree.num_tokens for s in group] for group in groups([step(60), step(40), step(1), step(300)])]
    assert sizes == [[60, 40], [1], [300]]
    assert [len(group) for group in groups([step(20), step(20, 30), step(20)])] == [1, 1, 1]


def test_a_run_whose_loss_overflows_in_a_shared_pass_fails_alone(make_config: MakeConfig) -> None:
    options: dict[str, Any] = {"train.micro_batch_size": None, "train.max_steps": 6, "train.max_grad_norm": 1e30}
    healthy = named(make_config, "healthy", only=(0,), **options)[0]
    wild = named(make_config, "wild", only=(0,), **{**options, "train.warmup_ratio": 0.0})[0]
    wild = wild.model_copy(update={"train": wild.train.model_copy(update={"learning_rate": 1e30})})
    first, second = together([wild, healthy])
    assert isinstance(first.error, NumericsError)
    expected = weights(alone(named(make_config, "alone", only=(0,), **options)[0]))
    for name, tensor in weights(second).items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=1e-4, msg=name)


def test_the_order_of_the_runs_does_not_matter(make_config: MakeConfig) -> None:
    forward = together(named(make_config, "a", only=(0, 2)))
    backward = together(named(make_config, "b", only=(2, 0)))
    for one, other in zip(forward, reversed(backward), strict=True):
        expected = weights(other)
        assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(one).items())


def test_a_run_that_fails_leaves_the_others_alone(make_config: MakeConfig, tmp_path: Path) -> None:
    configs = named(make_config, "mixed", only=(0, 1))
    broken = configs[0].model_copy(
        update={
            "run": configs[0].run.model_copy(update={"name": "broken"}),
            "data": configs[0].data.model_copy(update={"train": str(tmp_path / "nothing.json")}),
        }
    )
    ended: list[int] = []
    outcomes = together([configs[0], broken, configs[1]], on_end=lambda index, outcome: ended.append(index))
    assert isinstance(outcomes[1].error, DataError)
    assert ended[0] == 1
    expected = weights(alone(named(make_config, "alone", only=(1,))[0]))
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(outcomes[2]).items())


def test_a_pause_changes_nothing_and_either_way_goes_on(make_config: MakeConfig) -> None:
    """Paused together, gone on alone; paused alone, gone on together: the unbroken run's weights."""
    expected = [weights(alone(config)) for config in named(make_config, "alone", only=(1, 2))]
    begun_together, begun_alone = (named(make_config, kind, only=(1, 2)) for kind in ("t", "s"))
    for outcome in together(begun_together, stop_after_step=2):
        assert outcome.result is not None
        assert outcome.result.is_paused
        assert outcome.result.step == 2
        assert not outcome.result.final_model.exists()
    for config in begun_alone:
        assert alone(config, stop_after_step=2).result.is_paused  # type: ignore[union-attr]
    ends = ([alone(config, resume=True) for config in begun_together], together(begun_alone, resume=True))
    for end in ends:
        for outcome, want in zip(end, expected, strict=True):
            assert outcome.result is not None
            assert not outcome.result.is_paused
            assert all(torch.equal(tensor, want[name]) for name, tensor in weights(outcome).items())


def test_a_finished_run_is_left_as_it_is(make_config: MakeConfig) -> None:
    configs = named(make_config, "done", only=(0, 1))
    together(configs)
    again = together(configs, resume=True)
    assert all(outcome.result is not None and outcome.result.was_finished for outcome in again)


def test_the_base_is_one_and_stays_what_it_was(make_config: MakeConfig) -> None:
    loaded = load_model(make_config().model)
    shells = [shell_of(loaded.model) for _ in range(3)]
    addresses = {name: p.data_ptr() for name, p in loaded.model.named_parameters()}
    for shell in shells:
        assert {name: p.data_ptr() for name, p in shell.named_parameters()} == addresses
        assert shell.get_submodule("model.layers.0") is not loaded.model.get_submodule("model.layers.0")
        assert shell.get_output_embeddings().weight is loaded.model.get_output_embeddings().weight


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        ({"adapter.method": "full"}, "adapter.method: full"),
        ({"adapter.init": "pissa"}, "adapter.init: pissa"),
        ({"adapter.bias": "lora_only"}, "adapter.bias: lora_only"),
        ({"model.revision": "other"}, "model differs"),
        ({"train.num_threads": 2}, "train.num_threads differs"),
        ({"objective.name": "reward"}, "objective must be the same"),
    ],
)
def test_what_would_change_the_shared_base_is_refused_before_anything_runs(
    make_config: MakeConfig, overrides: dict[str, Any], complaint: str, tmp_path: Path
) -> None:
    configs = [make_config({"run.name": "one"}), make_config({"run.name": "two", **overrides})]
    with pytest.raises(ConfigError, match=complaint):
        together(configs)
    assert not (tmp_path / "outputs").exists()


def test_two_runs_of_one_name_are_refused(make_config: MakeConfig) -> None:
    with pytest.raises(ConfigError, match="same run directory"):
        together([make_config(), make_config()])


def test_base_files_are_not_written(make_config: MakeConfig, tiny_llama_dir: Path) -> None:
    def digest() -> str:
        return hashlib.sha256((tiny_llama_dir / "model.safetensors").read_bytes()).hexdigest()

    before = digest()
    together(named(make_config, "files", only=(0, 1)))
    assert digest() == before
