"""A run's lines in storage: written as they are said, and followed from elsewhere, each line once."""

import contextlib
import io
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

from infra.append_log import SEGMENTS_SUFFIX, AppendLog
from infra.errors import CredentialsRefused, DiptychError, FixedCredentialsRefused, StorageFailed, first_line
from infra.files import FileEntry
from infra.patience import persist
from infra.storage import Storage
from infra.terminal import printable
from orchestrator.records import drive_numbers, drive_path
from orchestrator.run_state import Standing

LOG_NAME = "log"
TIME_FORMAT, AFTER_TIME = "%Y-%m-%d %H:%M:%S", "  "
LOOK_EVERY_S = 1.0
PATIENCE_S = 600.0  # so long a follower waits for a storage that is away


class LineFile(io.TextIOBase):
    """A text file whose whole lines go to a log, each with its time in UTC.

    A line that its disk does not take is lost: it is not worth the run.
    """

    def __init__(self, log: AppendLog, clock: Callable[[], float] = time.time) -> None:
        self._log = log
        self._clock = clock
        self._begun = ""

    def writable(self) -> bool:
        """Always."""
        return True

    def write(self, text: str, /) -> int:
        """Takes the text; what does not end a line yet waits for its end."""
        *whole, self._begun = (self._begun + text).split("\n")
        for line in whole:
            stamp = time.strftime(TIME_FORMAT, time.gmtime(self._clock()))
            with contextlib.suppress(OSError):
                self._log.write(f"{stamp}{AFTER_TIME}{line}")
        return len(text)


def time_and_text(line: str) -> tuple[str, str]:
    """A line's time in UTC, as in ISO 8601, and what was said; the time is empty for a line without one."""
    stamp, _, text = line.partition(AFTER_TIME)
    try:
        said_at = datetime.strptime(stamp, TIME_FORMAT).replace(tzinfo=UTC)
    except ValueError:
        return "", line
    return said_at.isoformat(), text


def open_log(folder: Storage, number: int) -> AppendLog:
    """The log of a drive, to be appended to."""
    return AppendLog(folder, drive_path(number, LOG_NAME))


class LogReader:
    """Reads the lines of all of a run's drives, oldest first; each call gives what is new, each line once.

    What has been given is known by its place in the files, which only grow: a cut connection costs nothing.
    """

    def __init__(self, folder: Storage) -> None:
        self._folder = folder
        self._read: dict[str, int] = {}

    def new_lines(self) -> Iterator[str]:
        """The whole lines that have come in since the last call. Raises StorageFailed and OutputError."""
        for number in drive_numbers(self._folder):
            for entry in self._files(number):
                start = self._read.get(entry.path, 0)
                if entry.size_bytes > start:
                    data = self._folder.read_range(entry.path, start, entry.size_bytes - start)
                    whole = data[: data.rfind(b"\n") + 1]
                    # Noted before the first is given: what is given is not given again.
                    self._read[entry.path] = start + len(whole)
                    yield from whole.decode(errors="replace").splitlines()

    def _files(self, number: int) -> list[FileEntry]:
        path = drive_path(number, LOG_NAME)
        if self._folder.is_local:
            info = self._folder.info(path)
            return [] if info is None else [info]
        return self._folder.list_files(path + SEGMENTS_SUFFIX)


def follow(
    reader: LogReader,
    standing: Callable[[], Standing],
    say: Callable[[str], None],
    note: Callable[[str], None],
    *,
    pause_s: float = LOOK_EVERY_S,
) -> Standing:
    """Says each line as it comes in, until the run has ended; returns how.

    Waits for a storage that is away and for credentials that somebody can renew, which `note` hears of. Raises at once
    what no waiting helps: InputError for a record that cannot be read here, FixedCredentialsRefused, ConfigError.
    """
    while True:
        wait = _Wait(note)
        # The state first: a driver's last lines are there before its ending is.
        now = persist(standing, until=time.monotonic() + PATIENCE_S, on_trouble=wait.bear)
        _say_new(reader, say, wait)
        if now.state.is_ended:
            return now
        time.sleep(pause_s)


class _Wait:
    """What a follower waits for; said once, however often it fails."""

    def __init__(self, note: Callable[[str], None]) -> None:
        self._note = note
        self._is_told = False

    def bear(self, error: Exception) -> None:
        """Takes the error that is waited out. Raises it where waiting cannot help."""
        if not isinstance(error, StorageFailed | OSError | CredentialsRefused):
            raise error
        if isinstance(error, FixedCredentialsRefused):
            raise error
        if not self._is_told:
            self._is_told = True
            wanted = "new credentials" if isinstance(error, CredentialsRefused) else "the storage"
            self._note(f"waiting for {wanted}, {PATIENCE_S / 60:.0f} minutes at most: {printable(first_line(error))}")


def _say_new(reader: LogReader, say: Callable[[str], None], wait: _Wait) -> None:
    until = time.monotonic() + PATIENCE_S
    lines = reader.new_lines()
    while True:
        # Only what fails in reading is tried again: a pipe that its reader closed stays closed.
        try:
            line = next(lines)
        except StopIteration:
            return
        except (DiptychError, OSError) as error:
            if time.monotonic() > until:
                raise
            wait.bear(error)
            time.sleep(LOOK_EVERY_S)
            lines = reader.new_lines()
            continue
        say(line)
