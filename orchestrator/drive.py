"""Drives one run as its only driver: lease, clean terminal, progress, and how it ended."""

import contextlib
import sys
import traceback
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from infra.cluster import connect
from infra.errors import DiptychError, InputError
from infra.lease import hold
from infra.progress import Progress
from infra.progress_display import ProgressForm
from infra.storage import Storage, storage_of
from infra.terminal import quiet
from orchestrator.config import RunConfig
from orchestrator.run import OUTCOME_FILE, RunState, check_run, open_run, record_outcome, record_progress
from orchestrator.stages import Stage, check_stages, require_sections, run_stages, write_run_report

DRIVER_LOG = "logs/driver.log"


def drive(
    config: RunConfig,
    stages: Sequence[Stage],
    *,
    address: str | None = None,
    progress_form: ProgressForm = ProgressForm.AUTO,
) -> Storage:
    """Does the stages of a run and writes its report; returns the run's folder. Goes on where it was."""
    require_sections(config, stages)
    check_stages(config, stages)
    check_run(config)
    with driving(config.folder, progress_form) as progress:
        folder = open_run(config)
        run_stages(config, folder, stages, progress, address=address)
        write_run_report(config, folder)
    return folder


def evaluate_checkpoint(config: RunConfig, checkpoint: str, *, address: str | None = None) -> Storage:
    """Scores the named checkpoint; returns the folder with the scores, beside the run's own evaluation."""
    from training.checkpoint import MARKER_FILE
    from training.evaluate import evaluate

    require_sections(config, [Stage.EVALUATE])
    assert config.evaluate is not None
    source = storage_of(checkpoint)
    if not source.exists(MARKER_FILE):
        raise InputError(
            f"--checkpoint: {source.url} holds no whole checkpoint ({MARKER_FILE} is missing).",
            "A checkpoint is a folder step_… of a run's checkpoints/.",
            "Name one of those.",
        )
    check_run(config)
    held_out = config.train.held_out_source() if config.train else None
    with driving(config.folder) as progress, connect(config.folder.local_path("logs"), address=address):
        target = open_run(config).at(f"evaluation-{Path(source.url).name}")
        evaluate(config.evaluate, source, held_out, progress, target)
    return target


@contextlib.contextmanager
def driving(folder: Storage, progress_form: ProgressForm = ProgressForm.AUTO) -> Iterator[Progress]:
    """The block's process is the folder's driver. How it ends is recorded; an error gets the logs' place."""
    log = folder.local_path(DRIVER_LOG)
    with (
        hold(folder, partial(print, file=sys.stderr, flush=True)),
        quiet(log) as terminal,
        Progress(terminal.err, form=progress_form, on_snapshot=partial(record_progress, folder)) as progress,
    ):
        folder.delete(OUTCOME_FILE)
        try:
            yield progress
        except (KeyboardInterrupt, SystemExit):
            record_outcome(folder, RunState.STOPPED, "stopped by the user")
            raise
        except BaseException as error:
            record_outcome(folder, RunState.FAILED, str(error))
            traceback.print_exc(file=sys.stderr)
            if getattr(error, "exit_code", 1) != 2 or not isinstance(error, DiptychError):
                error.add_note(f"Logs: {log.parent}")
            raise
        record_outcome(folder, RunState.DONE, "all stages are done")
