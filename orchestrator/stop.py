"""Asks a run to stop, and waits until it has."""

import time

from infra.errors import RunError
from infra.storage import Storage
from orchestrator.records import ask_to_stop, newest_drive, read_standing
from orchestrator.run import read_identity
from orchestrator.run_state import Standing, StopMode

CHECKPOINT_WITHIN_S = 120.0  # see training.launch.STOP_PATIENCE_S
WAIT_S = CHECKPOINT_WITHIN_S + 60.0  # the driver also sees the request, ends its cluster and writes its ending
LOOK_EVERY_S = 0.5


def stop_run(folder: Storage, mode: StopMode) -> Standing:
    """Writes the wish into the run's folder; returns how the run stands then. One that has ended is left alone.

    A run that has not begun is stopped before it does. Raises ConfigError when the folder holds no run.
    """
    read_identity(folder)
    standing = read_standing(folder)
    if standing.state.is_ended:
        return standing
    drive = newest_drive(folder)
    ask_to_stop(folder, drive.number if drive else 1, mode)
    return read_standing(folder)


def wait_until_stopped(folder: Storage, *, within_s: float = WAIT_S) -> Standing:
    """How the run ended. Raises RunError when it goes on for longer than stopping may take."""
    deadline = time.monotonic() + within_s
    while not (standing := read_standing(folder)).state.is_ended:
        if time.monotonic() > deadline:
            raise RunError(
                f"{folder.url} is still {standing.state} ({standing.reason}).",
                f"It was given {within_s:,.0f} s.",
                "`diptych stop --now` does not wait for a checkpoint.",
            )
        time.sleep(LOOK_EVERY_S)
    return standing
