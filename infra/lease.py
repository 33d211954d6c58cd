"""Lets one process at a time drive a folder; the operating system lets go of it when that process dies."""

import contextlib
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from infra.errors import MachineError
from infra.storage import Storage

LEASE_FILE = "lease.json"


@dataclass(frozen=True, slots=True)
class Holder:
    """Who drives the folder: process, host, and since when (Unix seconds)."""

    pid: int
    host: str
    since: float


@contextlib.contextmanager
def hold(folder: Storage) -> Iterator[None]:
    """Holds the folder's lease for the length of the block; a kill frees it at once.

    Raises MachineError when another living process has it.
    """
    path = folder.local_path(LEASE_FILE)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Locks of flock belong to the open file, so the file itself stays: removing it would let two drivers in.
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise MachineError(
                f"{folder.url} is being driven by another diptych ({_describe(_read(folder))}).",
                "One process at a time may work in a folder.",
                "Wait for it, watch it with `diptych status`, or stop it first.",
            ) from error
        file.truncate(0)
        file.write(json.dumps(asdict(Holder(os.getpid(), socket.gethostname(), time.time()))))
        file.flush()
        yield


def holder_of(folder: Storage) -> Holder | None:
    """The living process that drives the folder, or None."""
    path = folder.local_path(LEASE_FILE)
    if not path.exists():
        return None
    with path.open("r") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _read(folder)
    return None


def _read(folder: Storage) -> Holder | None:
    text = folder.local_path(LEASE_FILE).read_text()
    return Holder(**json.loads(text)) if text else None


def _describe(holder: Holder | None) -> str:
    return f"process {holder.pid} on {holder.host}" if holder else "a process that has just started"
