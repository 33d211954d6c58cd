"""Talks to a cluster's dashboard about its jobs, and tells in the user's words why it can't."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from infra.cluster import QUIET_RAY, token_refused
from infra.cluster_address import refuse_secret
from infra.errors import MachineError, RunError, first_line

ANSWER_TIMEOUT_S = 30.0
WANTED = "Wanted is the dashboard's address of a cluster's head, such as http://10.0.0.7:8265."


def require_dashboard(address: str) -> None:
    """Raises MachineError for an address with a login, or of another form: Ray would take it for a module or a head."""
    refuse_secret(address)
    if not address.startswith(("http://", "https://")):
        raise MachineError(
            f"--address: got {address!r}, which does not begin with http:// or https://.",
            WANTED,
            "Give that one; HOST:6379 is for `diptych run` and `resume`, which drive the run from here.",
        )


class JobClient:
    """The jobs of the cluster whose dashboard is at `address`. Raises MachineError when it can't be talked to."""

    def __init__(self, address: str, *, answer_timeout_s: float = ANSWER_TIMEOUT_S) -> None:
        os.environ.update(QUIET_RAY)
        import requests
        from ray.job_submission import JobSubmissionClient

        self._address = address
        with self._explained():
            # Ray's own requests wait for an answer without end.
            requests.get(f"{address.rstrip('/')}/api/version", timeout=answer_timeout_s).close()
            try:
                self._client = JobSubmissionClient(address)
            except RuntimeError as error:
                raise self._unreachable(error) from error

    def status(self, job: str) -> Any:
        """The job's status; None when the cluster has none of that name."""
        with self._explained():
            try:
                return self._client.get_job_status(job)
            except RuntimeError:
                return None

    def submit(self, job: str, folder: Path, entrypoint: str, run: str) -> None:
        """Hands over the folder's files and what to start there. Raises RunError when the cluster refuses it.

        A cluster takes each name once, and refuses the second one of it too.
        """
        with self._explained():
            try:
                environment = {"working_dir": str(folder)}
                self._client.submit_job(
                    entrypoint=entrypoint, submission_id=job, runtime_env=environment, metadata={"run": run}
                )
            except RuntimeError as error:
                raise RunError(
                    f"The cluster refused the job {job} ({first_line(error)}).",
                    "Nothing of the run was started.",
                    "Look at the cluster's dashboard, and submit again.",
                ) from error

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        from ray.exceptions import AuthenticationError, RayError

        try:
            yield
        except AuthenticationError as error:
            raise token_refused(self._address) from error
        # All that requests raise is an OSError; and what is no dashboard may answer anything.
        except (RayError, OSError, ValueError, LookupError, TypeError) as error:
            raise self._unreachable(error) from error

    def _unreachable(self, error: Exception) -> MachineError:
        return MachineError(
            f"--address: no Ray cluster takes jobs at {self._address} ({first_line(error)}).",
            WANTED,
            "Check the address, and that the head runs with its dashboard; submit again: of several times one counts.",
        )
