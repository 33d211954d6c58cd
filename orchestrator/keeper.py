"""Keeps what a drive tells in storage while it goes on: progress, the nodes it holds, its lines, libraries' logs."""

import contextlib
import json
import math
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.append_log import AppendLog
from infra.errors import DiptychError
from infra.json_record import known_fields, read_record
from infra.patience import persist
from infra.progress import NODES_FACT, StageSnapshot
from infra.repeat import Repeating
from infra.session_folder import session_folder
from infra.storage import Storage
from orchestrator.node_hours import NodeMeter, write_uses
from orchestrator.records import drive_path
from orchestrator.run_log import LineFile, open_log
from orchestrator.run_state import Drive

KEEP_EVERY_S = 1.0
UPLOAD_EVERY_S = 15.0
NODES_EVERY_S = 10.0  # what a killed drive held since is not counted
PROGRESS_NAME = "progress.json"
LOGS_FOLDER = "logs"


@dataclass(frozen=True, slots=True)
class KeptSnapshot:
    """How far a stage was `at` that time (Unix seconds)."""

    snapshot: StageSnapshot
    at: float


class Keeper:
    """Writes in the background, so that no stage waits for the storage. lines: a text file for the drive's words.

    What a storage in trouble refuses is tried again every second, so that no request need be patient by itself.
    """

    def __init__(self, folder: Storage, drive: Drive, log: AppendLog, logs: Path) -> None:
        self._folder = folder.hasty()
        self._drive = drive
        self._log = log
        self._logs = logs
        self._lock = threading.Lock()
        self._stages: dict[str, dict[str, Any]] = {}
        self._is_new = False
        self._meter = NodeMeter()
        self._measured_at = -math.inf
        self._uploaded: dict[Path, tuple[int, int]] = {}
        self._uploaded_at = time.monotonic()
        self.lines = LineFile(log)

    def take(self, snapshot: StageSnapshot) -> None:
        """The stage has got so far."""
        with self._lock:
            self._stages[snapshot.stage] = {**snapshot.to_json(), "at": time.time()}
            self._is_new = True
            nodes = snapshot.facts.get(NODES_FACT)
            self._meter.hold(snapshot.stage, int(nodes) if isinstance(nodes, int | float) else 1)

    def keep(self) -> None:
        """Writes what is new; what a storage in trouble refuses is written the next time."""
        with contextlib.suppress(DiptychError, OSError):
            self._write_progress()
            if time.monotonic() - self._measured_at > NODES_EVERY_S:
                self._write_nodes()
            self._log.flush()
            if time.monotonic() - self._uploaded_at > UPLOAD_EVERY_S:
                self._upload_logs()

    def finish(self, until: float) -> None:
        """Writes all that there is, once more; until that time (of time.monotonic) it waits for the storage."""
        with contextlib.suppress(DiptychError, OSError):
            persist(self._write_all, until=until)

    def _write_all(self) -> None:
        self._write_progress()
        self._write_nodes()
        self._log.flush()
        self._upload_logs()

    def _write_progress(self) -> None:
        with self._lock:
            if not self._is_new:
                return
            data = json.dumps({"stages": self._stages}).encode()
            self._is_new = False
        try:
            self._folder.write_bytes(drive_path(self._drive.number, PROGRESS_NAME), data)
        except (DiptychError, OSError):
            self._is_new = True
            raise

    def _write_nodes(self) -> None:
        with self._lock:
            uses = self._meter.measure()
        if uses:
            write_uses(self._folder, self._drive.number, uses)
            self._measured_at = time.monotonic()

    def _upload_logs(self) -> None:
        """Copies the files of libraries that have changed; a local run has them in its folder already."""
        self._uploaded_at = time.monotonic()
        if self._folder.is_local:
            return
        for path in sorted(self._logs.rglob("*")):
            facts = path.stat()
            version = (facts.st_size, facts.st_mtime_ns)
            if path.is_file() and self._uploaded.get(path) != version:
                name = f"{LOGS_FOLDER}/{self._drive.number:04d}/{path.relative_to(self._logs)}"
                self._folder.write_bytes(name, path.read_bytes())
                self._uploaded[path] = version


@contextlib.contextmanager
def keeping(folder: Storage, drive: Drive, logs: Path) -> Iterator[Keeper]:
    """A keeper at work for the length of the block."""
    # Closed and not flushed: whoever ends the drive has the keeper finish, and how the drive ended is known by then.
    with contextlib.closing(open_log(folder.hasty(), drive.number)) as log:
        keeper = Keeper(folder, drive, log, logs)
        with Repeating(keeper.keep, every_s=KEEP_EVERY_S, name="keeper"):
            yield keeper


@contextlib.contextmanager
def logs_folder(folder: Storage) -> Iterator[Path]:
    """Where libraries and daemons write: in a local run's folder, else on this machine's disk until it is uploaded."""
    if folder.is_local:
        yield folder.local_path(LOGS_FOLDER)
        return
    with session_folder("logs-") as session:
        scratch = session / LOGS_FOLDER
        scratch.mkdir()
        yield scratch


def read_progress(folder: Storage, number: int) -> dict[str, KeptSnapshot]:
    """Stage → the last snapshot of it that a drive kept."""

    def kept(raw: dict[str, Any]) -> dict[str, KeptSnapshot]:
        found = raw["stages"].items()
        return {name: KeptSnapshot(known_fields(StageSnapshot, stage), float(stage["at"])) for name, stage in found}

    try:
        return read_record(folder, drive_path(number, PROGRESS_NAME), kept)
    except FileNotFoundError:
        return {}
