"""Records how a drive ends, so that nothing which goes wrong with the recording hides how it did."""

import contextlib
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence

from infra.errors import DiptychError
from infra.patience import persist
from orchestrator.driver import CredentialsEnded, Driver, LeaseLost
from orchestrator.keeper import LOGS_FOLDER, Keeper
from orchestrator.records import end_drive
from orchestrator.run_state import RunState

ENDING_PATIENCE_S = 120.0  # a run whose driver could not write how it ended shows as lost


@contextlib.contextmanager
def recording_ending(driver: Driver, keeper: Keeper, left: Callable[[], Sequence[str]]) -> Iterator[None]:
    """Records how the block ends; `left` tells which stages of the run are still to do then."""
    try:
        yield
        to_do = left()
    except (KeyboardInterrupt, SystemExit) as error:
        notes = getattr(error, "__notes__", [])
        _record(driver, keeper, RunState.STOPPED, notes[0] if notes else "stopped by the user")
        raise
    except LeaseLost:
        _log_traceback()
        keeper.finish()
        raise  # an ending might be taken for the word of the one who drives now
    except BaseException as error:
        _log_traceback()
        patience_s = 0.0 if isinstance(error, CredentialsEnded) else ENDING_PATIENCE_S
        _record(driver, keeper, RunState.FAILED, str(error).strip() or type(error).__name__, patience_s)
        if getattr(error, "exit_code", 1) != 2 or not isinstance(error, DiptychError):
            error.add_note(f"Logs: {driver.folder.at(LOGS_FOLDER).url}")
        raise
    state, more = (RunState.PARTIAL, f"; still to do: {', '.join(to_do)}") if to_do else (RunState.DONE, "")
    _record(driver, keeper, state, f"{driver.drive.command}: all of it is done{more}")


def _log_traceback() -> None:
    with contextlib.suppress(OSError):  # the log's disk may be full, which may be the very error
        traceback.print_exc(file=sys.stderr)


def _record(
    driver: Driver, keeper: Keeper, state: RunState, reason: str, patience_s: float = ENDING_PATIENCE_S
) -> None:
    for line in f"{state}: {reason}".splitlines():
        keeper.lines.write(f"{line}\n")
    # The last lines first: who follows them ends at the ending.
    keeper.finish()
    with contextlib.suppress(DiptychError, OSError):
        driver.require_lease(patience_s)
        # A disk is full until somebody makes room, who is to hear of it now.
        until = time.monotonic() + (0.0 if driver.folder.is_local else patience_s)
        persist(lambda: end_drive(driver.folder, driver.drive, state, reason), until=until)
    driver.tell(state, reason)
