"""The engine: one thread that owns the model. Rows wait in order, join between two passes and leave when they end."""

import logging
import threading
from collections import deque
from collections.abc import Sequence

from loratory.infer.generate import inference_mode
from loratory.infer.server.decoder import Decoder
from loratory.infer.server.row import Piece, Row
from loratory.infer.server.token_choice import choose_tokens
from loratory.infer.server.variants import Variants

logger = logging.getLogger(__name__)


class Engine:
    """Answers rows. All methods may be called from any thread.

    Args:
        variants: The model, from now on touched by the engine's thread alone.
        decoder: What computes its rows.
    """

    def __init__(self, variants: Variants, decoder: Decoder) -> None:
        self._variants = variants
        self._decoder = decoder
        self._changed = threading.Condition()
        self._waiting: deque[Row] = deque()
        self._live: dict[int, Row] = {}
        self._num_admitted = 0
        self._is_stopping = False
        self._thread = self._new_thread()

    def start(self) -> None:
        """Begin to answer; also again after `stop`."""
        if self._thread.ident is not None and not self._thread.is_alive():
            self._thread = self._new_thread()
            self._is_stopping = False
        self._thread.start()

    def _new_thread(self) -> threading.Thread:
        return threading.Thread(target=self._run, name="loratory-engine", daemon=True)

    def stop(self) -> None:
        """End the thread after the pass that it is in; rows that are left are given up."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()

    @property
    def num_slots(self) -> int:
        """Rows answered side by side."""
        return self._decoder.num_slots

    @property
    def num_rows(self) -> int:
        """Rows in slots and rows that wait."""
        with self._changed:
            return len(self._live) + len(self._waiting)

    def submit(self, rows: Sequence[Row]) -> None:
        """Put rows at the end of the queue."""
        with self._changed:
            self._waiting.extend(rows)
            self._changed.notify()

    def cancel(self, rows: Sequence[Row]) -> None:
        """Nobody waits for these rows: their slots are free before the next pass."""
        with self._changed:
            for row in rows:
                row.is_cancelled = True
            self._changed.notify()

    def forget(self) -> None:
        """Drop what is kept of earlier rows, when no row is under way."""
        with self._changed:
            if not self._live:
                self._decoder.reset()

    def _run(self) -> None:
        with inference_mode(self._variants.base):
            while self._take_in():
                try:
                    self._pass()
                except Exception:
                    # The border of a worker: whatever one pass meets, the next requests are answered.
                    logger.exception("a pass failed; its %d rows end with an error", len(self._live))
                    self._give_up()

    def _take_in(self) -> bool:
        """Drop what was cancelled, let rows in; waits while there is nothing to do. False when it is time to end."""
        with self._changed:
            while not self._is_stopping:
                self._waiting = deque(row for row in self._waiting if not row.is_cancelled)
                for number in [number for number, row in self._live.items() if row.is_cancelled]:
                    self._leave(number)
                while self._waiting and len(self._live) < self._decoder.num_slots:
                    row = self._waiting.popleft()
                    self._num_admitted += 1
                    self._live[self._num_admitted] = row
                    self._decoder.admit(self._num_admitted, row.request.prompt, variant=row.request.variant)
                if self._live:
                    return True
                self._changed.wait()
            return False

    def _pass(self) -> None:
        numbers, logits_PV = self._decoder.step()
        if not numbers:
            return
        rows = [self._live[number] for number in numbers]
        tokens = choose_tokens(rows, logits_PV)
        for place, (number, row, token) in enumerate(zip(numbers, rows, tokens, strict=True)):
            if row.accept(token, logits_PV[place]):
                self._decoder.extend(number, token)
            else:
                with self._changed:
                    self._leave(number)

    def _leave(self, number: int) -> None:
        del self._live[number]
        self._decoder.drop(number)

    def _give_up(self) -> None:
        with self._changed:
            rows = list(self._live.values())
            self._live.clear()
            self._decoder.reset()
        for row in rows:
            row.sink(Piece("", row.num_tokens, error=True))
