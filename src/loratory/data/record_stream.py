"""Rows of one source one at a time: each as a record, or as what is wrong with it.

Holds no row after it was handed out, so a file of any size can be walked. Nothing is raised for a bad row; what to do
about it is the caller's choice.
"""

from collections.abc import Iterator, Mapping

from loratory.data.entry_form import EntryForm
from loratory.data.faults import RowFault
from loratory.data.records import Origin, Record
from loratory.data.row_forms import RowForm, choose_form
from loratory.data.sources import find_source
from loratory.errors import DataError


class RecordStream:
    """The rows of a source in their order.

    Args:
        source: Path or name, as `loratory.data.sources.find_source` takes it.
        format: Row form: auto, alpaca, prompt_completion or chat. A registered entry has its own.
        columns: Our field name -> the source's column name. A registered entry has its own.
        system: System text for conversations that have none.
        require_answer: Whether a row without an answer is a fault.
        dataset_dir: Folder with a `dataset_info.json` whose entries are known by name.

    Attributes:
        source: As given.
        rows_read: Rows handed out so far by the latest walk.

    Raises:
        DataError: If there is no such source.
    """

    def __init__(
        self,
        source: str,
        *,
        format: str = "auto",
        columns: Mapping[str, str] | None = None,
        system: str | None = None,
        require_answer: bool = True,
        dataset_dir: str | None = None,
    ) -> None:
        self.source = source
        self.rows_read = 0
        self._found = find_source(source, dataset_dir=dataset_dir)
        self._format = format
        self._columns = dict(columns or {})
        self._system = system
        self._require_answer = require_answer

    def __iter__(self) -> Iterator[tuple[Origin, object, Record | RowFault]]:
        """Yield (place, parsed row, record or fault) per row.

        Raises:
            DataError: If a file cannot be parsed at all, no row form fits, or there is no row.
            MissingExtraError: If a library is needed that is not installed.
        """
        self.rows_read = 0
        form: RowForm | EntryForm | None = None
        if self._found.entry is not None:
            form = EntryForm(self._found.entry, self._system, self._require_answer)
        for origin, row in self._found.rows():
            self.rows_read += 1
            if isinstance(row, RowFault):
                yield origin, None, row
                continue
            try:
                form = form or self._form_of(row, origin)
                record = form.record(row, origin)
            except RowFault as fault:
                yield origin, row, fault
                continue
            yield origin, row, record
        if self.rows_read == 0:
            raise DataError(f"{self.source}: no rows. The file is empty or holds only a header.")

    def _form_of(self, row: object, origin: Origin) -> RowForm:
        if not isinstance(row, Mapping):
            raise RowFault("row is not an object", "expected {field: text, …}")
        return choose_form(
            row,
            name=self._format,
            columns=self._columns,
            system=self._system,
            require_answer=self._require_answer,
            file=str(origin),
        )
