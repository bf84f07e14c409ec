"""What matters when SmolLM2-135M is tuned by LoRA: one thing at a time around a centre, several seeds, paired tests.

    python examples/study/run.py telecom
    python examples/study/run.py banking77 --data-dir FOLDER

FOLDER holds banking77/{train,test}.csv; the telecom rows are generated. Runs that an earlier call has finished in
--work are kept, so that a call that was stopped goes on. All settings get the first seed, then all the second, and so
on; only whole rounds are compared.
"""

import argparse
import os
from pathlib import Path

from loratory.compare import compare_runs, write_comparison
from loratory.config import RunConfig, load_config
from loratory.data.record_stream import RecordStream
from loratory.data.strata import parse_stratum
from loratory.data.subset import write_subsets
from loratory.demo.base_model import ensure_base_model
from loratory.demo.telecom import generate_telecom
from loratory.engine.training import run_training
from loratory.report import write_report
from loratory.sweep.scoring import score_run

HERE = Path(__file__).resolve().parent
CENTRE = "centre"
# rsLoRA's factor is alpha / sqrt(rank) where LoRA's is alpha / rank: at rank 16 it is alpha 128 by another name.
SETTINGS = {
    CENTRE: (),
    "rank-64": ("adapter.rank=64", "adapter.alpha=128"),
    "rank-256": ("adapter.rank=256", "adapter.alpha=512"),
    "alpha-8": ("adapter.alpha=8",),
    "rslora": ("adapter.use_rslora=true",),
    "targets-qv": ("adapter.targets=[q_proj, v_proj]",),
    "targets-qkvo": ("adapter.targets=[q_proj, k_proj, v_proj, o_proj]",),
    "dora": ("adapter.use_dora=true",),
    "loraplus-16": ("train.loraplus_lr_ratio=16",),
    "rate-quarter": ("train.learning_rate={quarter}",),
    "rate-times-4": ("train.learning_rate={times_4}",),
}
DATA = ("banking77", "telecom")
COLUMNS = {"instruction": "text", "output": "category"}
NUM_TRAIN, NUM_TEST = 616, 308  # 8 and 4 rows for each of the 77 intents, near enough


def main() -> None:
    """Make the data, train what is missing, compare and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=DATA)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--settings", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--num-threads", type=int, default=2)
    parser.add_argument("--data-dir", type=Path, default=HERE.parents[2] / "shared" / "data")
    parser.add_argument("--work", type=Path, default=Path("outputs/study"))
    flags = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    work = flags.work / flags.data
    work.mkdir(parents=True, exist_ok=True)
    base = ensure_base_model()
    train, test = make_data(flags.data, flags.data_dir, work / "data")
    places = (
        f"model.model_name_or_path={base}", f"data.train={train}", f"data.test={test}",
        f"train.num_threads={flags.num_threads}", f"run.output_dir={work}",
    )  # fmt: skip
    finished: list[Path] = []
    for index, seed in enumerate(flags.seeds):
        for label in flags.settings:
            config = configure(flags.data, label, (*places, f"train.seed={seed}", f"run.name={label}-seed-{seed}"))
            train_and_score(config)
            finished.append(Path(config.run.output_dir) / config.run.name)
        # A setting is named after what the names of its runs have in common.
        tell(finished, work, flags.data, baseline=CENTRE if index else f"{CENTRE}-seed-{seed}")


def make_data(name: str, data_dir: Path, folder: Path) -> tuple[Path, Path]:
    """The training and the test file; each class keeps its share."""
    if name == "telecom":
        files = generate_telecom(folder)
        return files.train_cuts[400], files.test
    for part, size in (("train", NUM_TRAIN), ("test", NUM_TEST)):
        rows = RecordStream(str(data_dir / name / f"{part}.csv"), format="alpaca", columns=COLUMNS)
        write_subsets([rows], parse_stratum("category"), [size], output=folder / part)
    return folder / "train" / f"train_{NUM_TRAIN}.csv", folder / "test" / f"train_{NUM_TEST}.csv"


def configure(data: str, label: str, overrides: tuple[str, ...]) -> RunConfig:
    """The centre's configuration with one thing changed."""
    path = HERE / f"{data}.yaml"
    rate = load_config(path).train.learning_rate
    changes = (change.format(quarter=rate / 4, times_4=rate * 4) for change in SETTINGS[label])
    return load_config(path, (*changes, *overrides))


def train_and_score(config: RunConfig) -> None:
    """Train a run, or go on with it, and answer the test rows."""
    run_dir = Path(config.run.output_dir) / config.run.name
    assert isinstance(config.data.test, str)
    predictions = run_dir / "predictions" / Path(config.data.test).stem / "text_metrics.json"
    if predictions.is_file():
        return
    run_training(config, resume=run_dir.is_dir())
    value = score_run(run_dir, config, config.data.test, "exact_match")
    print(f"{config.run.name}: exact match {value:.1f}", flush=True)


def tell(runs: list[Path], work: Path, data: str, *, baseline: str) -> None:
    """Compare all settings with the centre, and write the report."""
    write_comparison(work / "comparison.json", compare_runs(runs, baseline=baseline))
    write_report(runs, work / "report.html", title=f"What matters on {data}")


if __name__ == "__main__":
    main()
