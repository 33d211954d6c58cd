"""The records of a run in storage: its drives, what was asked of them, how each ended, and who did what when."""

import contextlib
import getpass
import json
import os
import secrets
import socket
import time
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from infra.errors import DiptychError
from infra.json_record import known_fields, read_record
from infra.lease import look_at_lease
from infra.storage import Storage
from orchestrator.run_state import Drive, Ending, RunFacts, RunState, Standing, StopMode, StopRequest, standing_of

RUN_FILE = "run.json"
DRIVES_FOLDER = "drives"
START_NAME = "start.json"
STOP_NAME = "stop.json"
EVENTS_FOLDER = "events"
RETRY_EVENT = "retrying"
WENT_ON_EVENT = "went on"
AGAIN_EVENT = "began again"  # a part of a stage, which goes on meanwhile
SUBMIT_EVENT = "submitted"


@dataclass(frozen=True, slots=True)
class Event:
    """Something that was done to a run or in it; `drive` is the number of the driver under which it happened, or 0."""

    at: float
    who: str
    what: str
    text: str = ""
    drive: int = 0


def this_process() -> str:
    """Who this is, for other people: `user@host, process 42`."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())  # a container's user may have no name
    return f"{user}@{socket.gethostname()}, process {os.getpid()}"


def drive_path(number: int, name: str = "") -> str:
    """Where a file of a drive lies in the run's folder."""
    return f"{DRIVES_FOLDER}/{number:04d}/{name}".rstrip("/")


def drive_numbers(folder: Storage) -> list[int]:
    """The numbers of the drives that were begun, in order."""
    listed = folder.list_files(DRIVES_FOLDER, recursive=True)
    names = (entry.path.split("/")[1] for entry in listed if entry.path.endswith(f"/{START_NAME}"))
    return sorted(int(name) for name in names if name.isdecimal())


def next_drive_number(folder: Storage) -> int:
    """The number that the next drive gets, if nobody else begins one."""
    return max(drive_numbers(folder), default=0) + 1


def begin_drive(folder: Storage, command: str) -> Drive:
    """Takes the next number. Only the holder of the run's lease may call this."""
    while True:
        number = next_drive_number(folder)
        drive = Drive(number, secrets.token_hex(8), this_process(), time.time(), command)
        if folder.create(drive_path(number, START_NAME), encode(asdict(drive))):
            return drive


def end_drive(folder: Storage, drive: Drive, state: RunState, reason: str) -> bool:
    """Writes how the drive ended; says whether this is its ending: the first one stays."""
    ending = Ending(state, reason, time.time())
    return folder.create(drive_path(drive.number, "end.json"), encode(asdict(ending)))


def newest_drive(folder: Storage) -> Drive | None:
    """The drive that was begun last."""
    numbers = drive_numbers(folder)
    return read_record(folder, drive_path(numbers[-1], START_NAME), partial(known_fields, Drive)) if numbers else None


def ending_of(folder: Storage, number: int) -> Ending | None:
    """How the drive ended; None while it goes on, and when it died."""
    path = drive_path(number, "end.json")
    if not folder.exists(path):
        return None
    return read_record(folder, path, lambda raw: known_fields(Ending, {**raw, "state": RunState(raw["state"])}))


def ask_to_stop(folder: Storage, number: int, mode: StopMode) -> StopRequest:
    """Asks the drive of this number to stop; a request for `now` replaces one that would take a checkpoint first."""
    request = StopRequest(mode, this_process(), time.time())
    folder.write_bytes(drive_path(number, STOP_NAME), encode(asdict(request)))
    record_event(folder, Event(request.at, request.who, "asked to stop", mode.value, number))
    return request


def forget_stop_request(folder: Storage, number: int) -> None:
    """Takes back the wish that the drive of this number stop, because somebody wants it after all."""
    folder.delete(drive_path(number, STOP_NAME))


def stop_request_of(folder: Storage, number: int) -> StopRequest | None:
    """The wish that the drive of this number stop."""
    try:
        return read_record(
            folder,
            drive_path(number, STOP_NAME),
            lambda raw: known_fields(StopRequest, {**raw, "mode": StopMode(raw["mode"])}),
        )
    except FileNotFoundError:
        return None


def record_event(folder: Storage, event: Event) -> None:
    """Keeps the event as a file of its own. A storage in trouble costs the event and not the work."""
    name = f"{EVENTS_FOLDER}/{round(event.at * 1e9):020d}-{secrets.token_hex(4)}.json"
    with contextlib.suppress(DiptychError, OSError):
        folder.write_bytes(name, encode(asdict(event)))


def read_events(folder: Storage) -> list[Event]:
    """All events, oldest first."""
    return [read_record(folder, entry.path, partial(known_fields, Event)) for entry in folder.list_files(EVENTS_FOLDER)]


def read_facts(folder: Storage, events: list[Event]) -> RunFacts:
    """What the run's state follows from; `events` are the run's.

    Raises FileNotFoundError when there is no run, InputError when its records cannot be read here.
    """
    created_at = read_record(folder, RUN_FILE, lambda raw: float(raw["created"]))
    drive = newest_drive(folder)
    # In this order: a driver takes the lease before it begins, and leaves its ending before it gives the lease back.
    lease = look_at_lease(folder)
    number = drive.number if drive is not None else 0
    ending = ending_of(folder, number) if drive is not None else None
    is_alive = lease is not None and lease.is_alive and ending is None
    jobs = [event for event in events if event.what == SUBMIT_EVENT and event.drive > number]
    if drive is None or (jobs and not is_alive):
        since = jobs[-1].at if jobs else created_at
        return RunFacts(since, stop=stop_request_of(folder, number + 1), job=jobs[-1].text if jobs else None)
    return RunFacts(
        created_at,
        drive,
        ending,
        stop_request_of(folder, number),
        _retrying(events, number),
        None if lease is None else lease.age_s,
    )


def read_standing(folder: Storage) -> Standing:
    """Where the run in the folder stands now. Raises FileNotFoundError when there is none."""
    return standing_of(read_facts(folder, read_events(folder)), time.time())


def encode(value: dict[str, Any]) -> bytes:
    """A record as it is kept."""
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode("utf-8", errors="replace")


def _retrying(events: list[Event], number: int) -> str | None:
    told = [event for event in events if event.drive == number and event.what in (RETRY_EVENT, WENT_ON_EVENT)]
    return told[-1].text if told and told[-1].what == RETRY_EVENT else None
