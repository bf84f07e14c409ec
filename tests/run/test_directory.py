import subprocess
import sys
from pathlib import Path

import pytest

from loratory.errors import RunError
from loratory.run import Provenance, RunDirectory, write_provenance

PROVENANCE = {"base_identity": "b", "data": {}, "template": {}, "threads": 1, "num_processes": 1}


def begin(path: Path) -> RunDirectory:
    run = RunDirectory.create(path)
    run.config.write_text("model: {}\n")
    write_provenance(
        run.provenance, Provenance(run_id=run.run_id, trainable_parameters=1, total_parameters=2, **PROVENANCE)
    )
    return run


def save(run: RunDirectory, step: int) -> None:
    run.checkpoints.commit(step, lambda folder: None, identity={}, parent_step=0)


def test_an_unused_directory_disappears_again(tmp_path: Path) -> None:
    with RunDirectory.create(tmp_path / "outputs" / "run"):
        pass
    assert not (tmp_path / "outputs" / "run").exists()


def test_a_finished_run_is_not_overwritten(tmp_path: Path) -> None:
    with begin(tmp_path / "run") as run:
        run.final_model.mkdir()
        (run.final_model / "weights").write_text("precious")
    with pytest.raises(RunError, match=r"finished run.*run\.name.*--overwrite.*--resume"):
        RunDirectory.create(tmp_path / "run")
    assert (tmp_path / "run" / "final_model" / "weights").read_text() == "precious"


def test_an_unfinished_run_with_a_checkpoint_is_not_overwritten(tmp_path: Path) -> None:
    with begin(tmp_path / "run") as run:
        save(run, 7)
    with pytest.raises(RunError, match=r"step 7.*--resume"):
        RunDirectory.create(tmp_path / "run")


def test_a_run_that_never_saved_is_taken_over(tmp_path: Path) -> None:
    with begin(tmp_path / "run") as run:
        first = run.run_id
    with RunDirectory.create(tmp_path / "run") as run:
        assert run.run_id != first


def test_overwrite_empties_the_old_run(tmp_path: Path) -> None:
    with begin(tmp_path / "run") as run:
        save(run, 7)
        run.final_model.mkdir()
    with RunDirectory.create(tmp_path / "run", overwrite=True) as run:
        assert [p.name for p in run.path.iterdir()] == [".lock"]


def test_foreign_files_are_refused_even_with_overwrite(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    for overwrite in (False, True):
        with pytest.raises(RunError, match=r"not a run.*thesis\.tex"):
            RunDirectory.create(tmp_path, overwrite=overwrite)
    assert (tmp_path / "thesis.tex").exists()


def test_open_keeps_the_run_id(tmp_path: Path) -> None:
    with begin(tmp_path / "run") as run:
        run_id = run.run_id
    with RunDirectory.open(tmp_path / "run") as run:
        assert run.run_id == run_id
    assert RunDirectory.read(tmp_path / "run").run_id == run_id


def test_missing_and_foreign_directories_are_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no such run"):
        RunDirectory.open(tmp_path / "nothing")
    with pytest.raises(RunError, match="not a run directory"):
        RunDirectory.read(tmp_path)


def test_a_second_writer_in_another_process_is_refused(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from loratory.errors import RunError\n"
        "from loratory.run.directory import RunDirectory\n"
        "try: RunDirectory.open(Path(sys.argv[1]))\n"
        "except RunError as error: print(error); sys.exit(error.exit_code)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "run")]
    with begin(tmp_path / "run"):
        second = subprocess.run(command, capture_output=True, text=True, check=False)
        assert second.returncode == 2
        assert "another process is writing this run" in second.stdout
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_an_unusable_place_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be used as a run directory"):
        RunDirectory.create(tmp_path / "file" / "run")
