"""Mixed sources: exact shares, nothing lost over epochs, and any step reached without the steps before it."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from loratory.engine.mixture import Mixture, make_mixture
from loratory.engine.order import BatchPlan
from loratory.engine.training import run_training
from loratory.errors import ConfigError, DataError, IntegrityError


def test_quotas_by_hand() -> None:
    """Sources of 10 and 90 rows, three parts to one: 30 of the first go with 10 of the second, and so on."""
    assert make_mixture("interleave_under", [10, 90], [3, 1]) == Mixture((10, 90), (10, 3))
    assert make_mixture("interleave_over", [10, 90], [3, 1]) == Mixture((10, 90), (270, 90))
    assert make_mixture("interleave_under", [10, 90], None) == Mixture((10, 90), (10, 10))
    assert make_mixture("interleave_over", [10, 90], [0.5, 0.5]) == Mixture((10, 90), (90, 90))
    assert make_mixture("concat", [10, 90], None) is None


def test_an_epoch_has_its_quotas_and_epochs_use_every_row_alike() -> None:
    mixture = Mixture((4, 10), (6, 5))
    seen: Counter[int] = Counter()
    for epoch in range(10):
        rows = mixture.epoch_rows(seed=3, epoch=epoch)
        assert (int((rows < 4).sum()), int((rows >= 4).sum())) == (6, 5)
        counts = Counter(rows.tolist())
        assert max(counts[row] for row in range(4, 14)) == 1  # fewer than there are: none twice
        assert min(counts[row] for row in range(4)) >= 1
        seen.update(rows.tolist())
    assert {seen[row] for row in range(4)} == {15}
    assert {seen[row] for row in range(4, 14)} == {5}


def test_a_step_is_a_function_of_seed_and_position() -> None:
    mixture = Mixture((4, 10), (6, 5))

    def plan() -> BatchPlan:
        return BatchPlan(14, 3, seed=1, mixture=mixture)

    first = plan()
    assert first.steps_per_epoch == 4
    in_order = [first.rows(step).tolist() for step in range(12)]
    assert [plan().rows(step).tolist() for step in range(12)] == in_order
    assert plan().rows(9).tolist() == in_order[9]
    assert in_order != [BatchPlan(14, 3, seed=2, mixture=mixture).rows(step).tolist() for step in range(12)]
    epochs = [np.concatenate(in_order[start : start + 4]).tolist() for start in (0, 4, 8)]
    assert all(sum(row < 4 for row in epoch) == 6 for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_lengths_are_grouped_in_a_mixture_too() -> None:
    lengths = list(range(1, 15))
    batches = [
        BatchPlan(14, 3, seed=1, group_lengths=lengths, mixture=Mixture((4, 10), (6, 5))).rows(s) for s in range(4)
    ]
    assert max(lengths[i] for i in batches[0]) == max(lengths[i] for batch in batches for i in batch)
    assert sorted(i < 4 for batch in batches for i in batch).count(True) == 6


@pytest.mark.parametrize(
    ("strategy", "weights", "words"),
    [
        ("concat", [1.0, 1.0], "no effect under data.mix_strategy concat"),
        ("interleave_over", [1.0], "1 weights for 2 sources"),
        ("interleave_over", [1.0, 0.0], "must be a number above 0"),
        ("interleave_under", [1.0, float("nan")], "must be a number above 0"),
    ],
)
def test_faulty_weights(strategy: str, weights: list[float], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_mixture(strategy, [3, 4], weights)  # type: ignore[arg-type]
    assert words in str(caught.value)


class TestRuns:
    def files(self, folder: Path) -> list[str]:
        names = []
        for name, count in (("few", 3), ("many", 12)):
            rows = [{"instruction": f"{name} {i}", "input": "", "output": f"{name}_{i}"} for i in range(count)]
            (folder / f"{name}.json").write_text(json.dumps(rows))
            names.append(str(folder / f"{name}.json"))
        info = {name: {"file_name": f"{name}.json"} for name in ("few", "many")}
        (folder / "dataset_info.json").write_text(json.dumps(info))
        return names

    def losses(self, run_dir: Path) -> list[float]:
        lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
        return [line["loss"] for line in lines if "loss" in line]

    def test_interleaved_run_resumes_exactly(self, make_config, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
        settings = {
            "data.train": self.files(tmp_path),
            "data.mix_strategy": "interleave_over",
            "data.mix_weights": [1, 1],
            "train.batch_size": 5,
            "train.num_epochs": 2,
            "train.logging_steps": 1,
            "train.save_steps": 3,
        }
        whole = run_training(make_config({**settings, "run.name": "whole"}))
        assert whole.step == 2 * -(-24 // 5)
        run_training(make_config({**settings, "run.name": "cut"}))
        for folder in (tmp_path / "outputs" / "cut").glob("checkpoint-*"):
            if int(folder.name.split("-")[1]) > 6:
                for file in folder.iterdir():
                    file.unlink()
                folder.rmdir()
        final = tmp_path / "outputs" / "cut" / "final_model"
        final.rename(tmp_path / "elsewhere")
        again = run_training(make_config({**settings, "run.name": "cut"}), resume=True)
        assert again.step == whole.step
        assert self.losses(again.run_dir) == self.losses(whole.run_dir)
        final.rename(tmp_path / "elsewhere2")
        other = make_config({**settings, "data.mix_weights": [2, 1], "run.name": "cut"})
        with pytest.raises(IntegrityError, match=r"data\.mix_weights"):
            run_training(other, resume=True)

    def test_entries_by_name_and_files_train_alike(self, make_config, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
        files = self.files(tmp_path)
        by_file = run_training(make_config({"data.train": files, "run.name": "a"}))
        names = {"data.train": "few, many", "data.dataset_dir": str(tmp_path), "run.name": "b"}
        by_name = run_training(make_config(names))
        assert self.losses(by_file.run_dir) == self.losses(by_name.run_dir)
        assert by_name.step == -(-15 // 4)

    def test_no_source(self, make_config) -> None:  # type: ignore[no-untyped-def]
        with pytest.raises(DataError, match="names no source"):
            run_training(make_config({"data.train": []}))
