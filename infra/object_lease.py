"""A lease that is an object of S3: kept by renewing it with conditional writes, taken over when it stands still."""

import contextlib
import json
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from infra.errors import DiptychError, StorageFailed
from infra.s3_client import s3_client
from infra.s3_objects import S3Objects

# Longer than a request that is tried again may hold up a renewal; expiry is measured by the one who waits, so that
# no two clocks are compared.
EXPIRES_AFTER_S = 30.0
RENEW_SHARE = 1 / 6  # of that time, between two renewals
LOOK_EVERY_S = 1.0


class ObjectLease:
    """`holder` says whose it is; with a counter it makes each renewal another version."""

    def __init__(
        self, objects: S3Objects, path: str, holder: bytes, *, expires_after_s: float = EXPIRES_AFTER_S
    ) -> None:
        self._objects = objects
        self._hasty = replace(objects, is_hasty=True)
        self._path = path
        self._expires_after_s = expires_after_s
        self._holder: dict[str, Any] = json.loads(holder)
        self._renewals = 0
        self._version = ""
        self._renewed_at = 0.0
        self._is_lost = False
        self._trouble: DiptychError | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)

    @property
    def is_lost(self) -> bool:
        """Whether another holder was seen. A lease that is neither held nor lost may still be renewed."""
        return self._is_lost

    @property
    def is_held(self) -> bool:
        """Whether nobody can have taken the lease over."""
        return not self._is_lost and time.monotonic() - self._renewed_at < self._expires_after_s

    @property
    def trouble(self) -> DiptychError | None:
        """Why the last renewal failed; None when it did not."""
        return self._trouble

    def acquire(self, on_wait: Callable[[bytes], None]) -> None:
        """Takes the lease, waiting for its holder to end or to have stood still for `expires_after_s`.

        `on_wait` is called once, with the holder.
        """
        for is_hasty in (False, True):
            s3_client(is_hasty=is_hasty)  # made now: that takes seconds, which would be the lease's
        seen, since, is_told = "", time.monotonic(), False
        while not self._take(seen if time.monotonic() - since > self._expires_after_s else None):
            info = self._objects.info(self._path)
            version = info.version or "" if info else ""
            if version != seen:
                seen, since = version, time.monotonic()
            if info is not None and not is_told:
                with contextlib.suppress(FileNotFoundError):  # it was given back meanwhile
                    on_wait(_holder_in(self._objects.read_bytes(self._path)))
                    is_told = True
            time.sleep(LOOK_EVERY_S)
        self._thread.start()

    def release(self) -> None:
        """Gives the lease back, if it is still held. One that a storage in trouble keeps expires by itself.

        Not every server knows conditions for a deletion: so it follows a renewal, and a hasty client sends it or gives
        up within the time for which nobody else can have the lease.
        """
        self._ended.set()
        self._thread.join()
        with contextlib.suppress(DiptychError, FileNotFoundError):
            if self.is_held and self._renew() and self.is_held:
                self._hasty.delete([self._path])

    def _take(self, expired: str | None) -> bool:
        """Creates the lease, or replaces the one of an expired version."""
        began, data = time.monotonic(), self._data()
        objects, path = self._objects, self._path
        version = objects.replace(path, data, expired) if expired else objects.create(path, data)
        if version is not None:
            self._version, self._renewed_at = version, began
        return version is not None

    def _keep(self) -> None:
        while not self._ended.wait(self._expires_after_s * RENEW_SHARE):
            try:
                if not self._renew():
                    self._is_lost = True
                    return
                self._trouble = None
            except DiptychError as error:
                # The storage is away: `is_held` says for how long the lease is still safe.
                self._trouble = error
            except FileNotFoundError:
                continue  # it went between two looks: the next renewal tells whose it is

    def _renew(self) -> bool:
        """Says whether the lease is still this holder's. Raises StorageFailed."""
        for _ in range(2):
            began = time.monotonic()
            version = self._hasty.replace(self._path, self._data(), self._version)
            if version is not None:
                self._version, self._renewed_at = version, began
                return True
            info = self._hasty.info(self._path)
            if info is None or json.loads(_holder_in(self._hasty.read_bytes(self._path))) != self._holder:
                return False
            # It was written by this holder, which did not hear the answer.
            self._version = info.version or ""
        raise StorageFailed(f"{self._objects.url}/{self._path} changes under its holder's hands.")

    def _data(self) -> bytes:
        self._renewals += 1
        return json.dumps({**self._holder, "renewals": self._renewals}).encode()


def _holder_in(data: bytes) -> bytes:
    raw = json.loads(data)
    raw.pop("renewals", None)
    return json.dumps(raw).encode()
