"""Every example run file trains: on a tiny random model, with the paths it names pointed at data that is here."""

from pathlib import Path

import pytest

from loratory.config import load_config
from loratory.demo.telecom import TelecomFiles, generate_telecom
from loratory.engine.training import run_training

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = sorted(path for path in (ROOT / "examples").glob("*.yaml") if not path.stem.startswith("sweep"))
SHORT = ("data.cutoff_len=512", "data.max_samples=12", "train.max_steps=1", "train.batch_size=2", "train.num_threads=1")


@pytest.fixture(scope="module")
def telecom(tmp_path_factory: pytest.TempPathFactory) -> TelecomFiles:
    return generate_telecom(tmp_path_factory.mktemp("telecom"))


def _data_overrides(example: Path, telecom: TelecomFiles, request: pytest.FixtureRequest) -> tuple[str, ...]:
    if example.stem == "banking77":
        folder = request.getfixturevalue("shared_data") / "banking77"
        return (f"data.train={folder / 'train.csv'}", f"data.test={folder / 'test.csv'}", "data.val_size=2")
    return (f"data.train={telecom.train_cuts[100]}", f"data.test={telecom.test_cut}")


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_example_trains(
    example: Path, telecom: TelecomFiles, tiny_llama_dir: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if example.stem == "qlora":
        pytest.importorskip("bitsandbytes")
    data = _data_overrides(example, telecom, request)
    model = f"model.model_name_or_path={tiny_llama_dir}"
    config = load_config(example, (*SHORT, *data, model, f"run.output_dir={tmp_path}"))
    result = run_training(config)
    assert result.step == 1
    assert result.final_model.is_dir()


def test_readme_shows_the_minimal_example_as_it_is() -> None:
    text = (ROOT / "examples" / "minimal.yaml").read_text(encoding="utf-8")
    assert f"```yaml\n{text}```\n" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_readme_lists_every_example() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [path.name for path in EXAMPLES if f"examples/{path.name}" not in readme] == []
