"""Folders of a process on this machine's disk that go when it ends, and at the next one's start when it was killed."""

import contextlib
import fcntl
import os
import re
import shutil
import socket
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from infra.local_files import unwritable

PREFIX = "diptych-"
NAME = re.compile(PREFIX + r"\d+-(logs-|checkpoint-|list-)?[a-z0-9_]{8}")  # a process, its purpose, tempfile's part
OWNER_FILE = "owner"
BOOT_FILE = Path("/proc/sys/kernel/random/boot_id")
LOOK_EVERY_S = 0.05
MAX_TEMPORARY_PATH = 18  # Ray appends 89 characters, and the path of a socket may have 107


@contextlib.contextmanager
def session_folder(purpose: str = "", parent: Path | None = None) -> Iterator[Path]:
    """A folder for the length of the block; its owner file is locked until then, or until the process dies.

    parent: the user's temporary folder; by default, /tmp in its place where that is too deep for Ray's sockets.
    Raises OutputError when it cannot be made.
    """
    parent = parent or _short_temporary_folder()
    try:
        folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-{purpose}", dir=parent))
    except OSError as error:
        raise unwritable(parent, error) from error
    try:
        with (folder / OWNER_FILE).open("wb", buffering=0) as owner:  # a full disk is not tried again on closing
            with contextlib.suppress(OSError):  # a file system without locks: the file stays empty, which is nobody's
                fcntl.flock(owner, fcntl.LOCK_EX)
                owner.write(this_machine().encode())
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sweep_dead_sessions() -> None:
    """Removes what processes left that were killed: their folders, and two agents of Ray.

    Ray's other daemons die with their driver; the agents look for the dead head for a minute first.
    """
    for parent in {_short_temporary_folder(), Path(tempfile.gettempdir())}:
        for folder in parent.glob(f"{PREFIX}*-*"):
            if NAME.fullmatch(folder.name) and _is_abandoned(folder):
                end_processes_of(folder, patience_s=0)
                shutil.rmtree(folder, ignore_errors=True)


def end_processes_of(session: Path, *, patience_s: float) -> None:
    """Waits so long for the processes that have a file open in the session's folder, and then kills them."""
    found, deadline = list(_processes_of(session)), time.monotonic() + patience_s
    while (alive := [process for process in found if _is_alive(process)]) and time.monotonic() < deadline:
        time.sleep(LOOK_EVERY_S)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def _is_alive(process: psutil.Process) -> bool:
    """False also for one that has ended and that its parent has not asked after yet."""
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE and process.is_running())
    except psutil.NoSuchProcess:
        return False


def _processes_of(session: Path) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            # By their open logs: Ray renames its processes, which hides their arguments and environment.
            if process.pid != os.getpid() and any(file.path.startswith(f"{session}/") for file in process.open_files()):
                yield process


def _is_abandoned(folder: Path) -> bool:
    """Whether a process of this user made it here, since this machine's start, and has ended."""
    try:
        info = folder.lstat()
        if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.getuid():
            return False
        with (folder / OWNER_FILE).open("r+") as owner:
            # Read before it is locked: who makes a session writes only once it has the lock.
            if owner.read() != this_machine():
                return False
            fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    except (OSError, UnicodeDecodeError):
        return False


def this_machine() -> str:
    """Its name and its boot: the locks of another one's processes may be unknown here."""
    boot = BOOT_FILE.read_text().strip() if BOOT_FILE.exists() else ""
    return f"{socket.gethostname()} {boot}"


def _short_temporary_folder() -> Path:
    """The user's temporary folder, or /tmp where that is too deep for Ray's sockets."""
    folder = Path(tempfile.gettempdir())
    return folder if len(str(folder)) <= MAX_TEMPORARY_PATH else Path("/tmp")
