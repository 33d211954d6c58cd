"""Connects to a Ray cluster, or starts a quiet one on this machine that leaves no process or file behind."""

import contextlib
import logging
import os
import shutil
import signal
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from infra.cluster_address import require_head
from infra.errors import MachineError
from infra.session_folder import end_processes_of, session_folder, sweep_dead_sessions

OBJECT_STORE_BYTES = 256 << 20  # images never enter it: only plans, counts and metrics do
WORKERS_END_S = 5.0
KEPT_LOGS = ("worker-*.out", "worker-*.err", "raylet.*", "gcs_server.*", "train/*.log", "ray-data/*.log")

# Read by Ray when it is imported or when its daemons start: so they are set before either.
QUIET_RAY = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_DEDUP_LOGS": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_enable_metrics_collection": "0",
    "PYTHONWARNINGS": "ignore",
}


# Of a cluster whose nodes come when work waits for them: all the GPUs that it may have. Set by infra/deploy's files.
GPUS_ON_DEMAND_VARIABLE = "DIPTYCH_GPUS_ON_DEMAND"


@dataclass(frozen=True, slots=True)
class Cluster:
    """What a connected cluster offers; its GPUs are those that are there, or that come when work waits for them.

    scratch: a folder of this machine that goes when the connection ends.
    """

    cpus: int
    gpus: int
    logs: Path
    scratch: Path


@contextlib.contextmanager
def connect(logs: Path, *, address: str | None = None, cpus: int | None = None) -> Iterator[Cluster]:
    """A Ray cluster for the length of the block.

    With `address` an existing one is joined and left as it was. Without, one is started on this machine with
    `cpus` cores (default: all) and stopped at the end; its logs are kept in `logs`.
    Raises MachineError when no cluster answers at `address` or none can be started.
    """
    os.environ.update(QUIET_RAY)
    sweep_dead_sessions()
    import ray

    with session_folder() as folder:
        try:
            with warnings.catch_warnings(), _own_sigterm():
                warnings.simplefilter("ignore")
                _start(ray, folder, address, cpus)
            try:
                resources = ray.cluster_resources()
                gpus = max(int(resources.get("GPU", 0)), _gpus_on_demand() if address else 0)
                yield Cluster(int(resources.get("CPU", 0)), gpus, logs, folder / "scratch")
            finally:
                ray.shutdown()
                if not address:
                    # A worker of Ray 2.60 may hang for ever in its own end.
                    end_processes_of(folder, patience_s=WORKERS_END_S)
        finally:
            _keep_logs(folder, logs)


def _gpus_on_demand() -> int:
    text = os.environ.get(GPUS_ON_DEMAND_VARIABLE, "0")
    if not text.isdigit():
        raise MachineError(
            f"The environment variable {GPUS_ON_DEMAND_VARIABLE} is {text!r}.",
            "It is the number of GPUs that the cluster's autoscaler may add.",
            "Set it to that number, or unset it.",
        )
    return int(text)


@contextlib.contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keeps the process's own handler of SIGTERM, which Ray replaces when it starts."""
    is_main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM) if is_main else None
    yield
    if is_main and before is not None:
        signal.signal(signal.SIGTERM, before)


def _start(ray: ModuleType, folder: Path, address: str | None, cpus: int | None) -> None:
    options: dict[str, object] = {
        "address": "local",
        "num_cpus": cpus,
        "include_dashboard": False,
        "object_store_memory": OBJECT_STORE_BYTES,
        "_temp_dir": str(folder),
    }
    if address:
        require_head(address)
        options = {"address": address}
    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
    except ray.exceptions.AuthenticationError as error:
        raise token_refused(str(address)) from error
    except (ray.exceptions.RayError, ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise MachineError(
            f"No Ray cluster {f'answers at {address}' if address else 'could be started here'} ({error}).",
            "A reachable address, or a machine with free memory and a writable temporary folder, is needed.",
            "Check the address, or leave it out to run on this machine.",
        ) from error


def token_refused(address: str) -> MachineError:
    """The error for a cluster that does not take this process's token."""
    return MachineError(
        f"--address: the cluster at {address} wants its token, and got none or another one.",
        "A cluster with RAY_AUTH_MODE=token takes jobs and drivers from those who have the same token.",
        "Set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH.",
    )


def _keep_logs(session: Path, logs: Path) -> None:
    for pattern in KEPT_LOGS:
        for source in session.glob(f"session_2*/logs/{pattern}"):
            with contextlib.suppress(OSError):  # what a full disk does not take is not worth the work
                if source.is_file() and source.stat().st_size:
                    logs.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(source, logs / source.name)
