"""Has a run's report written while the run goes on, without ever disturbing it."""

import contextlib
import time
from collections.abc import Callable, Iterator

from infra.errors import CredentialsRefused
from infra.repeat import Repeating
from infra.terminal import printable
from orchestrator.driver import LeaseLost

REPORT_EVERY_S = 60.0
MAX_SHARE = 0.02  # of the driver's time: the report of a large run is written less often
LOOK_EVERY_S = 1.0


@contextlib.contextmanager
def refreshing_report(
    write: Callable[[], None], say: Callable[[str], None], every_s: float = REPORT_EVERY_S
) -> Iterator[None]:
    """Calls `write` every so often in a thread for the length of the block, and once more when it is done or fails.

    What goes wrong with it is said once on the way and once at the end; it ends neither the block nor the writing.
    """
    refresher = _Refresher(write, say, every_s)
    try:
        with Repeating(refresher.look, every_s=min(every_s, LOOK_EVERY_S), name="report"):
            yield
    except LeaseLost:
        raise  # the run is another driver's by now, and so is its report
    except Exception as error:
        # A refused key, which the report meets too, is told with the run's end.
        refresher.write_last(is_told=isinstance(error, CredentialsRefused))
        raise
    refresher.write_last()


class _Refresher:
    def __init__(self, write: Callable[[], None], say: Callable[[str], None], every_s: float) -> None:
        self._write, self._say, self._every_s = write, say, every_s
        self._due = time.monotonic() + every_s
        self._is_told = False

    def look(self) -> None:
        if time.monotonic() >= self._due:
            self.write()

    def write_last(self, *, is_told: bool = False) -> None:
        self._is_told = is_told
        self.write()

    def write(self) -> None:
        began = time.monotonic()
        try:
            self._write()
        except Exception as error:  # noqa: BLE001 - whatever it is, a report is not worth a run
            if not self._is_told:
                self._is_told = True
                self._say(f"! the report is not up to date: {printable(str(error)) or type(error).__name__}")
        ended = time.monotonic()
        self._due = ended + max(self._every_s, (ended - began) / MAX_SHARE)
