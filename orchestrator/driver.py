"""The one process that drives a run: what it alone may commit, and what makes it stop."""

import contextlib
import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from infra.errors import DiptychError, FixedCredentialsRefused, StageFailed
from infra.lease import PATIENCE_S, Lease
from infra.progress import Progress
from infra.storage import Storage
from orchestrator.records import Event, encode, record_event, stop_request_of
from orchestrator.run_state import Drive, StopMode, StopRequest

LOOK_EVERY_S = 2.0  # so soon a request to stop is seen
TERMINATED = 128 + signal.SIGTERM
INTERRUPT = signal.SIGUSR1  # what the watching thread sends to the main one; Ctrl-C may be ignored in the background


class LeaseLost(StageFailed):
    """Another process may drive the run by now; this one may commit nothing more."""


class CredentialsEnded(StageFailed):
    """The run's storage does not take its driver's credentials any more; what is left is for another start."""


@dataclass(frozen=True, slots=True)
class Driver:
    """The holder of a run's lease. logs: the folder of this machine for what libraries and daemons print.

    has_begun: set once the drive's first stage has.
    """

    folder: Storage
    drive: Drive
    lease: Lease
    progress: Progress
    logs: Path
    has_begun: threading.Event = field(default_factory=threading.Event)

    def require_lease(self, within_s: float = PATIENCE_S) -> None:
        """Raises LeaseLost when another process has, or may have, taken the run over.

        While the storage is away that is not known: then this waits for it, until the lease is renewed or lost.
        Raises CredentialsRefused when that is for want of credentials.
        """
        if not self.lease.wait_until_held(within_s):
            raise LeaseLost(
                f"{self.folder.url}: the lease was lost, because the storage could not be reached for too long.",
                "Another driver may have taken over; this one committed nothing more. What was committed is kept.",
                "`diptych status` shows who drives it; `diptych resume` goes on once nobody does.",
            )

    def commit(self, path: str, record: dict[str, Any]) -> None:
        """Writes a record that only the run's driver may write, with the driver's number in it.

        Raises LeaseLost when a later driver has begun; on S3 the write itself is conditional on what was read.
        """
        self.require_lease()
        data = encode({**record, "drive": self.drive.number})
        objects = self.folder.s3
        if objects is None:
            self._refuse_later(self.folder.read_bytes(path) if self.folder.exists(path) else None)
            self.folder.write_bytes(path, data)
            return
        while True:
            info = objects.info(path)
            if info is None or info.version is None:
                is_written = objects.create(path, data)
            else:
                self._refuse_later(objects.read_bytes(path))
                is_written = objects.replace(path, data, info.version)
            if is_written:
                return
            self.require_lease()

    def begin_stage(self, stage: str) -> None:
        """From now on the stage is at work, and what goes wrong is the run's failure. Raises LeaseLost."""
        self.require_lease()
        self.tell("began a stage", stage)
        self.has_begun.set()

    def tell(self, what: str, text: str = "") -> None:
        """Records an event."""
        record_event(self.folder, Event(time.time(), self.drive.who, what, text, self.drive.number))

    def _refuse_later(self, found: bytes | None) -> None:
        if found is not None and json.loads(found).get("drive", 0) > self.drive.number:
            raise LeaseLost(
                f"{self.folder.url} has been taken over by driver {json.loads(found)['drive']}; "
                f"this is driver {self.drive.number}.",
                "The newest driver's work counts.",
                "Nothing is to be done; `diptych status` shows how the run stands.",
            )


@dataclass(slots=True)
class Watch:
    """What the watching thread found, if anything: a request to stop, or that the lease is lost, or can't be kept."""

    stop: StopRequest | None = None
    is_lease_lost: bool = False
    refusal: FixedCredentialsRefused | None = None

    @property
    def must_end_now(self) -> bool:
        """Whether nothing can be committed any more."""
        return self.is_lease_lost or self.refusal is not None


@contextlib.contextmanager
def watching(folder: Storage, drive: Drive, lease: Lease, say: Callable[[str], None]) -> Iterator[Watch]:
    """Looks for requests to stop and at the lease, in a thread of its own, for the length of the block.

    In the main thread the block is then left by SystemExit, after which a training still takes its checkpoint, or by
    KeyboardInterrupt: at a request to stop now, when the lease is lost, and when it has run out for want of credentials
    that nobody can renew. `say` hears of credentials that somebody has to renew.
    """
    watch, is_over = Watch(), threading.Event()

    def look() -> None:
        is_told = False
        while not is_over.wait(LOOK_EVERY_S):
            watch.is_lease_lost, refusal = lease.is_lost, lease.refusal
            watch.refusal = refusal if isinstance(refusal, FixedCredentialsRefused) else None
            if watch.must_end_now:
                _wake_main()
                return
            if refusal is not None and not is_told:
                say(f"waiting for new credentials: {refusal}")
            is_told = refusal is not None
            with contextlib.suppress(DiptychError, OSError, ValueError):  # a storage in trouble is asked again
                found = stop_request_of(folder.hasty(), drive.number)
                # A second request may be for now, where the first was for a checkpoint.
                if found is not None and (watch.stop is None or found.mode is not watch.stop.mode):
                    watch.stop = found
                    _wake_main()

    def interrupt(_signal: int, _frame: FrameType | None) -> NoReturn:
        if watch.stop is not None and watch.stop.mode is StopMode.CHECKPOINT and not watch.must_end_now:
            raise SystemExit(TERMINATED)
        raise KeyboardInterrupt

    thread = threading.Thread(target=look, name="watch", daemon=True)
    with _handling(INTERRUPT, interrupt):
        thread.start()
        try:
            yield watch
        finally:
            is_over.set()
            thread.join(LOOK_EVERY_S)  # a look that hangs may: it only reads


def _wake_main() -> None:
    """Sends the main thread the signal, as a real one: it ends waits of the operating system too."""
    main = threading.main_thread().ident
    if main is not None and callable(signal.getsignal(INTERRUPT)):
        signal.pthread_kill(main, INTERRUPT)


@contextlib.contextmanager
def _handling(number: signal.Signals, handler: Any) -> Iterator[None]:
    """Sets a signal's handler for the length of the block; in other threads than the main one nothing can be set."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)
