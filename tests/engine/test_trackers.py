import importlib.util
from pathlib import Path

import pytest

from loratory.engine.trackers import make_trackers, numbers
from loratory.errors import MissingExtraError

OPTIONS = {"project": "p", "run_name": "r", "run_id": "i", "first_step": 0, "config": {}}


def test_tensorboard_files_hold_the_curve(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (tracker,) = make_trackers(["tensorboard"], folder=tmp_path, **OPTIONS)  # type: ignore[arg-type]
    for step in (1, 2, 3):
        tracker.log(step, {"step": step, "loss": 1 / step, "note": "text"})
    tracker.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert events.Tags()["scalars"] == ["loss"]
    assert [(e.step, round(e.value, 6)) for e in events.Scalars("loss")] == [(1, 1.0), (2, 0.5), (3, 0.333333)]


@pytest.mark.parametrize("name", ["wandb", "mlflow", "trackio"])
def test_a_missing_library_names_its_extra(tmp_path: Path, name: str) -> None:
    if importlib.util.find_spec(name) is not None:
        pytest.skip(f"{name} is installed")
    with pytest.raises(MissingExtraError, match=rf"loratory\[{name}\]"):
        make_trackers([name], folder=tmp_path, **OPTIONS)  # type: ignore[arg-type]


def test_no_tracker_by_default(tmp_path: Path) -> None:
    assert make_trackers([], folder=tmp_path, **OPTIONS) == []  # type: ignore[arg-type]


def test_only_numbers_are_tracked() -> None:
    assert numbers({"step": 3, "loss": 0.5, "note": "x"}) == {"loss": 0.5}
