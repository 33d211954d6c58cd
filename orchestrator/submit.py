"""Hands a run to a Ray cluster as a job: the code and the config travel with it, the rest goes through storage."""

import tempfile
import time
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path

from infra.errors import RunError
from orchestrator.config import RunConfig
from orchestrator.job_client import JobClient, require_dashboard
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
    require_dashboard(address)
    stages = configured_stages(config)
    note = require_cluster_places(config, shared_folder)
    check_run(config)
    client = JobClient(address)
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


def _submit(client: JobClient, address: str, config: RunConfig, number: int) -> str | None:
    """Hands over the run's drive of that number; returns the job's name, None when somebody else was faster."""
    folder = config.folder
    forget_stop_request(folder, number)
    # The same names for all who submit the drive at the same moment: the cluster takes each once. One that is deleted
    # can't be taken again, so a job that died before it could begin to drive keeps its name.
    first = f"diptych-{config.name}-{read_identity(folder)['id']}-{number}"
    with tempfile.TemporaryDirectory(prefix="diptych-submit-") as scratch:
        write_package(Path(scratch), config.to_yaml())
        for job in chain([first], (f"{first}.{attempt}" for attempt in count(2))):
            status = client.status(job)
            if status is None:
                try:
                    client.submit(job, Path(scratch), ENTRYPOINT, folder.url)
                except RunError:
                    status = client.status(job)
                    if status is None:
                        raise
                else:
                    text = f"job {job} at {address}"
                    record_event(folder, Event(time.time(), this_process(), SUBMIT_EVENT, text, number))
                    return job
            if not status.is_terminal() or number in drive_numbers(folder):
                return None
    return None
