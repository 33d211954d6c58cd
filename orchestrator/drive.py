"""Drives one run as its only driver: with its lease, a clean terminal and progress."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from infra.cluster import connect
from infra.errors import CredentialsRefused, DiptychError, InputError
from infra.lease import hold
from infra.progress import Progress
from infra.progress_display import ProgressForm
from infra.remote_errors import unwrapped
from infra.storage import Storage, storage_of
from infra.terminal import quiet
from orchestrator.config import RunConfig, Stage
from orchestrator.driver import CredentialsEnded, Driver, Watch, watching
from orchestrator.ending import recording_ending
from orchestrator.keeper import keeping, logs_folder
from orchestrator.options import say_if_heard
from orchestrator.records import begin_drive, forget_stop_request, next_drive_number
from orchestrator.report_refresh import refreshing_report
from orchestrator.run import check_run, open_run, with_stored_sections
from orchestrator.stage_state import stages_left
from orchestrator.stages import (
    check_last_stages,
    check_stages,
    refresh_run_report,
    require_sections,
    run_stages,
)

DRIVER_LOG = "driver.log"


def drive(
    config: RunConfig,
    stages: Sequence[Stage],
    *,
    address: str | None = None,
    progress_form: ProgressForm = ProgressForm.AUTO,
    is_submitted: bool = False,
) -> Storage:
    """Does the stages of a run and writes its report; returns the run's folder. Goes on where it was.

    One that `is_submitted` heeds a request to stop that was made while it was queued; what is wrong with it is its
    ending, since nobody else hears of it.
    """
    require_sections(config, stages)
    config = with_stored_sections(config)
    if not is_submitted:
        check_stages(config, stages)
    check_run(config)
    left = partial(stages_left, config, did=stages)
    with driving(config.folder, ", ".join(stages), progress_form, left=left, is_submitted=is_submitted) as driver:
        if is_submitted:
            check_stages(config, stages)
        open_run(driver, config)
        with refreshing_report(partial(refresh_run_report, config, driver), driver.progress.note):
            run_stages(driver, config, stages, address=address)
            driver.require_lease()  # without it the last report is left out
    return config.folder


def evaluate_checkpoint(config: RunConfig, checkpoint: str, *, address: str | None = None) -> Storage:
    """Scores the named checkpoint; returns the folder with the scores, beside the run's own evaluation."""
    from training.checkpoint import MARKER_FILE
    from training.evaluate import evaluate

    require_sections(config, [Stage.EVALUATE])
    config = with_stored_sections(config)
    check_last_stages(config, [Stage.EVALUATE])
    assert config.evaluate is not None
    source = storage_of(checkpoint)
    if not source.exists(MARKER_FILE):
        raise InputError(
            f"--checkpoint: {source.url} holds no whole checkpoint ({MARKER_FILE} is missing).",
            "A checkpoint is a folder step_… of a run's checkpoints/.",
            "Name one of those.",
        )
    check_run(config)
    with (
        driving(config.folder, f"evaluate {Path(source.url).name}", left=partial(stages_left, config)) as driver,
        connect(driver.logs, address=address),
    ):
        open_run(driver, config)
        driver.begin_stage(Stage.EVALUATE)
        target = driver.folder.at(f"evaluation-{Path(source.url).name}")
        evaluate(config.evaluate, source, config.held_out, driver.progress, target)
    return target


@contextlib.contextmanager
def driving(
    folder: Storage,
    command: str,
    progress_form: ProgressForm = ProgressForm.AUTO,
    *,
    left: Callable[[], Sequence[str]] = tuple,
    is_submitted: bool = False,
) -> Iterator[Driver]:
    """The block's process is the folder's driver. How it ends is recorded; an error gets the logs' place.

    `left` tells at the block's end which stages of the run are still to do: only without any is the run done.
    A request to stop from before the block counts only for one that `is_submitted`.
    """
    with (
        hold(folder, partial(say_if_heard, err=True)) as lease,
        logs_folder(folder) as logs,
        quiet(logs / DRIVER_LOG) as terminal,
    ):
        if not is_submitted:
            forget_stop_request(folder, next_drive_number(folder))
        drive = begin_drive(folder, command)
        with (
            keeping(folder, drive, logs) as keeper,
            Progress(terminal.err, form=progress_form, journal=keeper.lines, on_snapshot=keeper.take) as progress,
        ):
            driver = Driver(folder, drive, lease, progress, logs)
            driver.tell("began to drive", command)
            with (
                recording_ending(driver, keeper, left),
                watching(folder, drive, lease, progress.note) as watch,
                _reasons(driver, watch),
            ):
                yield driver


@contextlib.contextmanager
def _reasons(driver: Driver, watch: Watch) -> Iterator[None]:
    """Gives an interruption its reason, which the watching thread knows, and refused credentials their remedy."""
    try:
        yield
    except CredentialsRefused as error:
        raise _credentials_ended(driver, unwrapped(error) or error) from error
    except (KeyboardInterrupt, SystemExit) as error:
        if watch.is_lease_lost:
            driver.require_lease()
        if watch.refusal is not None:
            raise _credentials_ended(driver, watch.refusal) from watch.refusal
        if watch.stop is not None:
            error.add_note(f"{watch.stop.who} asked it to stop")
        raise


def _credentials_ended(driver: Driver, refusal: DiptychError) -> CredentialsEnded:
    """What was the user's error at the start of a command is a failure of the run that is under way."""
    return CredentialsEnded(
        f"{refusal.found} The run ended.",
        f"{refusal.allowed} What was committed is kept.",
        f"{refusal.fix}\nThen `diptych resume {driver.folder.url}` goes on.",
    )
