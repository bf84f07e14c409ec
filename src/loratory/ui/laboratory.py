"""What the page stands on, in one piece: the runs of a folder, their processes, the open model."""

from collections.abc import Sequence
from pathlib import Path

from loratory.report.content import Content, gather
from loratory.ui.answers import AnswerTable, read_answer_table
from loratory.ui.draft import BLANK, draft_of_run
from loratory.ui.jobs import Jobs
from loratory.ui.listing import RunList
from loratory.ui.talk import Talk


class Laboratory:
    """The functions that buttons call. Runs are given by name and looked up in the list.

    Args:
        folder: Folder of run directories.

    Attributes:
        runs: What is there.
        jobs: What is at work.
        talk: The open model.
    """

    def __init__(self, folder: Path) -> None:
        self.runs = RunList(folder)
        self.jobs = Jobs(self.runs)
        self.talk = Talk()
        self._answers: tuple[object, AnswerTable] | None = None

    def compare(self, names: Sequence[str]) -> Content:
        """Runs compared on the rows that all of them answered.

        Raises:
            LoratoryError: As `loratory compare` refuses them.
        """
        return gather(self._paths(names))

    def answers(self, names: Sequence[str]) -> AnswerTable:
        """Answers of runs beside each other; read again only when runs or files are others.

        Raises:
            LoratoryError: They answered different rows, or none.
        """
        paths = self._paths(names)
        files = sorted(file for path in paths for file in path.glob("predictions/*/*.json*"))
        stamp = (tuple(names), tuple((str(file), file.stat().st_mtime_ns) for file in files))
        if self._answers is None or self._answers[0] != stamp:
            self._answers = (stamp, read_answer_table(paths))
        return self._answers[1]

    def draft(self, name: str | None) -> str:
        """A run file to begin with: a run's under a free name, or a blank one.

        Raises:
            RunError: There is no such run.
        """
        return BLANK if not name else draft_of_run(self.runs.config_text(name), self.runs.names())

    def _paths(self, names: Sequence[str]) -> list[Path]:
        return [self.runs.path(name) for name in names]
