"""Records how a drive ends, within one deadline, so that nothing which goes wrong with that hides how it did."""

import contextlib
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence

from infra.errors import ConfigError, DiptychError, MachineError, StageFailed, UserError
from infra.patience import persist
from infra.remote_errors import unwrapped
from orchestrator.driver import CredentialsEnded, Driver, LeaseLost
from orchestrator.keeper import LOGS_FOLDER, Keeper
from orchestrator.records import Event, end_drive, record_event
from orchestrator.run_state import RunState

ENDING_PATIENCE_S = 120.0  # a run whose driver could not write how it ended shows as lost
INTERRUPTED_PATIENCE_S = 20.0  # somebody waits for the prompt
WAITING = "waiting for the storage to note the ending; Ctrl-C again leaves"
WAITING_AFTER_S = 2.0  # a storage that is well has it by then


@contextlib.contextmanager
def recording_ending(driver: Driver, keeper: Keeper, left: Callable[[], Sequence[str]]) -> Iterator[None]:
    """Records how the block ends; `left` tells which stages of the run are still to do then.

    What was the user's error before the first stage began is raised as StageFailed after it: see `_failure_of`.
    """
    try:
        yield
        to_do = left()
    except (KeyboardInterrupt, SystemExit) as error:
        notes = getattr(error, "__notes__", [])
        reason = notes[0] if notes else "stopped by the user"
        with _telling_of_a_wait(driver.progress.note):
            _record(driver, keeper, RunState.STOPPED, reason, INTERRUPTED_PATIENCE_S)
        raise
    except LeaseLost:
        _log_traceback()
        keeper.finish(time.monotonic())
        raise  # an ending might be taken for the word of the one who drives now
    except BaseException as error:
        _log_traceback()
        failure = _failure_of(error, has_begun=driver.has_begun.is_set())
        patience_s = 0.0 if isinstance(error, CredentialsEnded) else ENDING_PATIENCE_S
        _record(driver, keeper, RunState.FAILED, str(failure).strip() or type(failure).__name__, patience_s)
        if not isinstance(failure, UserError):
            failure.add_note(f"Logs: {driver.folder.at(LOGS_FOLDER).url}")
        if failure is error:
            raise
        raise failure from error
    state, more = (RunState.PARTIAL, f"; still to do: {', '.join(to_do)}") if to_do else (RunState.DONE, "")
    _record(driver, keeper, state, f"{driver.drive.command}: all of it is done{more}")


def _failure_of(error: BaseException, *, has_begun: bool) -> BaseException:
    """The error that the command ends with.

    Exit code 2 says that the same command can't succeed, and a cluster does not try it again. That is so of what the
    checks find and of a mistake of the config; a disk that is full in the middle, or a cluster that does not answer, is
    a failure.
    """
    if not isinstance(error, UserError) or isinstance(error, ConfigError):
        return error
    if not has_begun and not isinstance(error, MachineError):
        return error
    found = unwrapped(error) or error
    return StageFailed(found.found, found.allowed, found.fix)


def _log_traceback() -> None:
    with contextlib.suppress(OSError):  # the log's disk may be full, which may be the very error
        traceback.print_exc(file=sys.stderr)


@contextlib.contextmanager
def _telling_of_a_wait(say: Callable[[str], None]) -> Iterator[None]:
    timer = threading.Timer(WAITING_AFTER_S, say, [WAITING])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _record(
    driver: Driver, keeper: Keeper, state: RunState, reason: str, patience_s: float = ENDING_PATIENCE_S
) -> None:
    """Writes the ending, and before it the last lines: who follows them ends at the ending.

    All of it waits for the storage until one time, with requests that are tried again here. A disk is full until
    somebody makes room, who is to hear of it now.
    """
    folder, drive = driver.folder.hasty(), driver.drive
    until = time.monotonic() + (0.0 if folder.is_local else patience_s)
    for line in f"{state}: {reason}".splitlines():
        keeper.lines.write(f"{line}\n")
    keeper.finish(until)
    with contextlib.suppress(DiptychError, OSError):
        driver.require_lease(max(0.0, until - time.monotonic()))
        persist(lambda: end_drive(folder, drive, state, reason), until=until)
        record_event(folder, Event(time.time(), drive.who, state, reason, drive.number))
