"""Lets one process at a time drive a place; another one waits, and takes over when the first has ended or died."""

import contextlib
import errno
import fcntl
import json
import math
import os
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from infra.conditions import honours_conditions
from infra.errors import CredentialsRefused, DiptychError, FixedCredentialsRefused, InputError, OutputError
from infra.local_files import reading, unwritable, writing
from infra.object_lease import EXPIRES_AFTER_S, ObjectLease
from infra.storage import Storage

LEASE_FILE = "lease.json"
NO_LOCKS = frozenset({errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK})
LOOK_EVERY_S = 0.5
LOOK_AGAIN_S = 0.2
PATIENCE_S = 600.0  # for a storage that is away; nothing is committed meanwhile


@dataclass(frozen=True, slots=True)
class Holder:
    """Who drives the place: process, host, and since when (Unix seconds)."""

    pid: int
    host: str
    since: float

    def __str__(self) -> str:
        since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(self.since))
        return f"process {self.pid} on {self.host}, since {since}"


class Lease:
    """Holding a place; ask `is_held` before doing what only its driver may do."""

    def __init__(
        self,
        is_held: Callable[[], bool],
        is_lost: Callable[[], bool] | None = None,
        trouble: Callable[[], DiptychError | None] = lambda: None,
    ) -> None:
        self._is_held = is_held
        self._is_lost = is_lost or (lambda: not is_held())
        self._trouble = trouble

    @property
    def is_lost(self) -> bool:
        """Whether another process has it for certain; while the storage is away, neither this nor `is_held` is true."""
        return self._is_lost()

    @property
    def is_held(self) -> bool:
        """Whether nobody can have taken the place over meanwhile."""
        return self._is_held()

    @property
    def refusal(self) -> CredentialsRefused | None:
        """Why it is neither held nor lost, where that is for want of credentials."""
        trouble = None if self.is_held or self.is_lost else self._trouble()
        return trouble if isinstance(trouble, CredentialsRefused) else None

    def wait_until_held(self, within_s: float = PATIENCE_S) -> bool:
        """Waits for a storage that is away, until the lease is renewed or lost; says whether it is held.

        Raises CredentialsRefused when it could not be renewed for want of credentials.
        """
        deadline = time.monotonic() + within_s
        while not self.is_held and not self.is_lost and time.monotonic() < deadline:
            if isinstance(self.refusal, FixedCredentialsRefused):
                break  # which no waiting can help
            time.sleep(LOOK_AGAIN_S)
        refusal = self.refusal
        if refusal is not None:
            raise refusal
        return self.is_held


@contextlib.contextmanager
def hold(place: Storage, say: Callable[[str], None]) -> Iterator[Lease]:
    """Holds the place for the length of the block; leaves no file there. Waits while another process holds it.

    A local folder is freed by the operating system when its holder dies; in S3 others wait until a dead holder's
    lease has expired. `say` is told whom it waits for, and when a storage cannot keep two drivers apart.
    Raises OutputError and StorageFailed.
    """
    me = Holder(os.getpid(), socket.gethostname(), time.time())
    if place.is_local:
        with _locked(place, me, say):
            yield Lease(lambda: True)
    elif place.s3 is not None and honours_conditions(place.url):
        lease = ObjectLease(place.s3, LEASE_FILE, _to_json(me))
        lease.acquire(lambda data: _say_waiting(place, data, say))
        try:
            yield Lease(lambda: lease.is_held, lambda: lease.is_lost, lambda: lease.trouble)
        finally:
            lease.release()
    else:
        say(f"{place.url} has no conditional writes: take care that nobody else writes there meanwhile.")
        yield Lease(lambda: True)


@dataclass(frozen=True, slots=True)
class LeaseView:
    """A lease as others see it: whose it is, and how long ago (seconds) its holder gave a sign of life."""

    holder: Holder | None
    age_s: float

    @property
    def is_alive(self) -> bool:
        """Whether its holder still drives the place."""
        return self.age_s <= EXPIRES_AFTER_S


def look_at_lease(place: Storage) -> LeaseView | None:
    """The lease of a place, from any machine that reaches it; None when nobody has it.

    A local holder's death is seen at once (age: infinite), that of another machine when its lease has expired. The
    age is by the storage's own clock.
    """
    if place.s3 is not None:
        try:
            age_s, data = place.s3.age_s(LEASE_FILE), place.s3.read_bytes(LEASE_FILE)
        except FileNotFoundError:
            return None
        return None if age_s is None else LeaseView(_from_json(data), age_s)
    if not place.is_local:
        return None
    path = place.local_path(LEASE_FILE)
    try:
        with reading(path), path.open("r") as file:
            is_free = _is_free(place, file)
            return LeaseView(_from_json(path.read_bytes()), math.inf if is_free else 0.0)
    except FileNotFoundError:
        return None


def _is_free(place: Storage, file: IO[str]) -> bool:
    """Whether nobody has the file locked."""
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        raise InputError(
            f"{place.url}: whether anybody drives it is not known here, since its file system answers no locks "
            f"({error.strerror}).",
            "A driver holds a lock (flock) on its lease, which others look at.",
            "Look from a machine on which it is mounted with locks.",
        ) from error
    return True


def holder_of(place: Storage) -> Holder | None:
    """The living process that drives a place, or None."""
    lease = look_at_lease(place)
    return lease.holder if lease is not None and lease.is_alive else None


@contextlib.contextmanager
def _locked(place: Storage, me: Holder, say: Callable[[str], None]) -> Iterator[None]:
    path = place.local_path(LEASE_FILE)
    is_told = False
    while (file := _try_lock_in_folder(place)) is None:
        if not is_told:
            with contextlib.suppress(FileNotFoundError):
                _say_waiting(place, path.read_bytes(), say)
                is_told = True
        time.sleep(LOOK_EVERY_S)
    with file:
        file.truncate(0)
        # Who has the lock is for others to read; a full disk may lack the room for it.
        with contextlib.suppress(OSError):
            os.write(file.fileno(), _to_json(me))
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # the lock is what counts, and goes with its holder
                path.unlink(missing_ok=True)


def _try_lock_in_folder(place: Storage) -> IO[str] | None:
    """Makes the folder first: another one that had the place may have removed it, and may do so at any moment."""
    path = place.local_path(LEASE_FILE)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(path, error) from error
    try:
        return _try_lock(place)
    except FileNotFoundError:
        return None


def _try_lock(place: Storage) -> IO[str] | None:
    """The locked file; None while another process has it. flock belongs to the open file and not to its name."""
    path = place.local_path(LEASE_FILE)
    file, is_new = _opened(path)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
            return file
    except (BlockingIOError, FileNotFoundError):
        pass
    except OSError as error:
        file.close()
        if error.errno not in NO_LOCKS:
            raise
        if is_new:  # another one may be of a holder whose locks are known where it runs
            path.unlink(missing_ok=True)
        raise OutputError(
            f"{place.url}: its file system knows no locks ({error.strerror}).",
            "One process at a time drives a place, which is told by a lock (flock) on its lease.",
            "Mount it with locks (for Lustre: -o flock), or choose another folder or S3.",
        ) from error
    file.close()
    return None


def _opened(path: Path) -> tuple[IO[str], bool]:
    """The lease's file, and whether this call made it. Raises OutputError."""
    with writing(path):
        try:
            return path.open("x+"), True
        except FileExistsError:
            return path.open("a+"), False


def _say_waiting(place: Storage, data: bytes, say: Callable[[str], None]) -> None:
    holder = _from_json(data)
    say(
        f"{place.url} is being driven by another diptych ({holder or 'one that has just started'}).\n"
        "Waiting until it ends or dies; Ctrl-C leaves it alone."
    )


def _to_json(holder: Holder) -> bytes:
    return json.dumps(asdict(holder)).encode()


def _from_json(data: bytes) -> Holder | None:
    """None for a file that its holder has not written yet, or another version has."""
    try:
        raw = json.loads(data)
        return Holder(int(raw["pid"]), str(raw["host"]), float(raw["since"]))
    except (ValueError, LookupError, TypeError):
        return None
