"""Hands a run to a Ray cluster as a job: the code and the config travel with it, the rest goes through storage."""

import os
import tempfile
import time
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import Any

from infra.cluster import QUIET_RAY
from infra.errors import MachineError, RunError, first_line
from orchestrator.config import RunConfig
from orchestrator.package import CONFIG_NAME, write_package
from orchestrator.places import require_cluster_places
from orchestrator.records import (
    SUBMIT_EVENT,
    Event,
    drive_numbers,
    forget_stop_request,
    next_drive_number,
    read_standing,
    record_event,
    this_process,
)
from orchestrator.run import CONFIG_FILE, check_run, create_run, read_identity, refuse_other_config
from orchestrator.run_state import RunState
from orchestrator.stage_state import stages_left
from orchestrator.stages import check_stages, configured_stages

ENTRYPOINT = f"python -m orchestrator run {CONFIG_NAME} --address auto --submitted"
GO_ON = frozenset({RunState.QUEUED, RunState.LOST, RunState.STOPPED, RunState.FAILED, RunState.PARTIAL})


@dataclass(frozen=True, slots=True)
class Submission:
    """A run that a cluster has; `job` is its job's name there, None when the run was under way or done already,
    or, if `is_late`, somebody else has just submitted it."""

    name: str
    folder: str
    state: RunState
    job: str | None
    note: str | None = None
    is_late: bool = False

    def lines(self) -> list[str]:
        """What the user needs to follow it."""
        first = f"Run: {self.folder}  ({self.state})"
        why = "another submission was faster" if self.is_late else "nothing was submitted"
        return [
            f"{first}, job {self.job}" if self.job else f"{first}: {why}",
            f"Follow it: diptych logs {self.folder} -f",
            f"Stop it:   diptych stop {self.folder}",
            *([self.note] if self.note else []),
        ]


def submit_run(config: RunConfig, address: str, *, shared_folder: str | None = None) -> Submission:
    """Makes the run and hands it to the cluster whose dashboard is at `address`; returns at once.

    A run that was stopped, failed, lost or done in part is submitted again; one that is under way or done is left
    alone, and so of several submissions at the same moment one counts. `shared_folder` is the one that all nodes
    mount, if there is one. Raises ConfigError when a run of this name has another config, or places that the nodes
    do not see, MachineError when no cluster answers.
    """
    stages = configured_stages(config)
    note = require_cluster_places(config, shared_folder)
    check_run(config)
    client = _client(address)
    check_stages(config, stages)
    folder = config.folder
    folder.create(CONFIG_FILE, config.to_yaml())  # of several at the same moment the first one's counts
    refuse_other_config(config, folder)
    create_run(config)
    standing = read_standing(folder)
    has_work = standing.state in GO_ON or (standing.state is RunState.DONE and stages_left(config))
    if not has_work:
        return Submission(config.name, folder.url, standing.state, None, note)
    number = next_drive_number(folder)
    job = _submit(client, address, config, number)
    # The faster one's job is there, whether or not that has been noted in the folder yet.
    state = read_standing(folder).state if job or number in drive_numbers(folder) else RunState.QUEUED
    return Submission(config.name, folder.url, state, job, note, is_late=job is None)


def _submit(client: Any, address: str, config: RunConfig, number: int) -> str | None:
    """Hands over the run's drive of that number; returns the job's name, None when somebody else was faster."""
    folder = config.folder
    forget_stop_request(folder, number)
    # The same names for all who submit the drive at the same moment: the cluster takes each once. One that is deleted
    # can't be taken again, so a job that died before it could begin to drive keeps its name.
    first = f"diptych-{config.name}-{read_identity(folder)['id']}-{number}"
    with tempfile.TemporaryDirectory(prefix="diptych-submit-") as scratch:
        write_package(Path(scratch), config.to_yaml())
        for job in chain([first], (f"{first}.{attempt}" for attempt in count(2))):
            status = _status(client, job)
            if status is None:
                try:
                    client.submit_job(
                        entrypoint=ENTRYPOINT,
                        submission_id=job,
                        runtime_env={"working_dir": scratch},
                        metadata={"run": folder.url},
                    )
                except RuntimeError as error:
                    status = _status(client, job)
                    if status is None:
                        raise _refused(job, error) from error
                else:
                    text = f"job {job} at {address}"
                    record_event(folder, Event(time.time(), this_process(), SUBMIT_EVENT, text, number))
                    return job
            if not status.is_terminal() or number in drive_numbers(folder):
                return None
    return None


def _refused(job: str, error: RuntimeError) -> RunError:
    return RunError(
        f"The cluster refused the job {job} ({first_line(error)}).",
        "Nothing of the run was started.",
        "Look at the cluster's dashboard, and submit again.",
    )


def _client(address: str) -> Any:
    os.environ.update(QUIET_RAY)
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    try:
        return JobSubmissionClient(address)
    except AuthenticationError as error:
        raise MachineError(
            f"--address: the cluster at {address} wants its token, and got none or another one.",
            "A cluster with RAY_AUTH_MODE=token takes jobs from those who have the same token.",
            "Set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH.",
        ) from error
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise MachineError(
            f"--address: no Ray cluster takes jobs at {address} ({first_line(error)}).",
            "Wanted is the dashboard's address of a cluster's head, such as http://10.0.0.7:8265.",
            "Check the address, and that the head was started with its dashboard.",
        ) from error


def _status(client: Any, job: str) -> Any:
    """The job's status; None when the cluster has none of that name."""
    try:
        return client.get_job_status(job)
    except RuntimeError:
        return None
