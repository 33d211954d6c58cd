"""Reads how a run stands from its folder alone: its state, its stages, its restarts with their causes, its cost."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from infra.errors import ConfigError, InputError, first_line
from infra.files import FileEntry
from infra.local_files import reading
from infra.progress import StageSnapshot
from infra.storage import Storage
from orchestrator.keeper import KeptSnapshot, read_progress
from orchestrator.node_hours import node_hours_by_stage, read_uses
from orchestrator.records import AGAIN_EVENT, RETRY_EVENT, RUN_FILE, Event, drive_numbers, read_events, read_facts
from orchestrator.run import CONFIG_FILE, read_config, read_identity, stages_done
from orchestrator.run_state import RunState, standing_of
from orchestrator.stages import configured_stages
from training.checkpoint import newest_checkpoint

DRIVE_EVENT = "began to drive"
UNREADABLE = "unreadable"


class StageState(StrEnum):
    """Where a stage of a run stands."""

    TO_DO = "to do"
    RUNNING = "running"
    UNFINISHED = "unfinished"
    DONE = "done"


@dataclass(frozen=True, slots=True)
class StageStatus:
    """One stage; `snapshot` is the last word of it, at `at` (Unix seconds), where there is one.

    `node_hours` are those of all drives together.
    """

    name: str
    state: StageState
    snapshot: StageSnapshot | None
    at: float | None
    node_hours: float = 0.0


@dataclass(frozen=True, slots=True)
class Restart:
    """Something was started again: when, and why."""

    at: float
    cause: str


@dataclass(frozen=True, slots=True)
class RunStatus:
    """What `diptych status` tells.

    `version` is of diptych, which made the run; `config_trouble` is why this one cannot read its config.
    """

    name: str
    folder: str
    state: RunState
    reason: str
    drives: int
    stages: tuple[StageStatus, ...]
    stages_done: tuple[str, ...]
    restarts: tuple[Restart, ...]
    step: int | None
    loss: float | None
    checkpoint: str | None
    node_hours: float = 0.0
    version: str | None = None
    config_trouble: str | None = None

    @property
    def progress(self) -> StageSnapshot | None:
        """How far the stage that is under way is."""
        return next((stage.snapshot for stage in self.stages if stage.state is StageState.RUNNING), None)


@dataclass(frozen=True, slots=True)
class RunLine:
    """A run in a list of runs; `state` is a RunState, or UNREADABLE with the reason and no time."""

    name: str
    folder: str
    state: str
    reason: str
    created_at: float | None
    stages_done: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ConfiguredStages:
    """The stages that a run's config names; `trouble` is why it cannot be read."""

    names: tuple[str, ...]
    trouble: str | None = None


def read_status(folder: Storage) -> RunStatus:
    """How the run in `folder` stands. Raises ConfigError when there is none, InputError for unreadable records."""
    from training.records import newest_metrics

    identity = read_identity(folder)
    events = read_events(folder)
    standing = standing_of(read_facts(folder, events), time.time())
    metrics = newest_metrics(folder)
    numbers = drive_numbers(folder)
    done = stages_done(folder)
    configured = read_configured_stages(folder)
    stages = tuple(read_stages(folder, numbers, done, configured, is_live=not standing.state.is_ended))
    return RunStatus(
        name=identity["name"],
        folder=folder.url,
        state=standing.state,
        reason=standing.reason,
        drives=len(numbers),
        stages=stages,
        stages_done=done,
        restarts=tuple(restarts_of(events)),
        step=metrics.step if metrics else None,
        loss=metrics.loss if metrics else None,
        checkpoint=newest_checkpoint(folder),
        node_hours=sum(stage.node_hours for stage in stages),
        version=identity.get("versions", {}).get("diptych"),
        config_trouble=configured.trouble,
    )


def read_runs(storage: Storage) -> list[RunLine]:
    """The runs below `storage`, the newest first; folders that hold no run are left out.

    One whose records cannot be read is listed with the reason, and hides none of the others.
    """
    found = []
    for name in _names(storage):
        folder = storage.at(name)
        try:
            found.append(_run_line(folder, name))
        except FileNotFoundError:
            continue
        except InputError as error:
            found.append(RunLine(name, folder.url, UNREADABLE, first_line(error), None, ()))
    return sorted(found, key=lambda run: -(run.created_at or 0.0))


def _run_line(folder: Storage, name: str) -> RunLine:
    facts = read_facts(folder, read_events(folder))
    standing = standing_of(facts, time.time())
    return RunLine(name, folder.url, standing.state, standing.reason, facts.created_at, stages_done(folder))


def _names(storage: Storage) -> list[str]:
    if storage.is_local:
        root = storage.local_path()
        with reading(root):
            return sorted(path.name for path in root.iterdir() if _may_hold_run(path)) if root.is_dir() else []
    if storage.s3 is not None:
        return [name for name in storage.s3.list_folders() if storage.at(name).exists(RUN_FILE)]
    listed: list[FileEntry] = storage.list_files(recursive=True)
    return sorted({entry.path.split("/")[0] for entry in listed if entry.path.endswith(f"/{RUN_FILE}")})


def _may_hold_run(folder: Path) -> bool:
    """One that may not be looked into may: reading it tells why not."""
    try:
        return (folder / RUN_FILE).is_file()
    except PermissionError:
        return True


def read_configured_stages(folder: Storage) -> ConfiguredStages:
    """The stages of the run's config, which a later version may have written; none before there is a config."""
    if not folder.exists(CONFIG_FILE):
        return ConfiguredStages(())
    try:
        return ConfiguredStages(tuple(stage.value for stage in configured_stages(read_config(folder))))
    except ConfigError as error:
        return ConfiguredStages((), first_line(error))


def read_stages(
    folder: Storage, numbers: list[int], done: tuple[str, ...], configured: ConfiguredStages, *, is_live: bool
) -> Iterator[StageStatus]:
    """The config's stages in order, and what else drives did; `numbers` are the drives', `is_live` if one goes on."""
    told: dict[str, KeptSnapshot] = {}
    for number in numbers:
        told |= read_progress(folder, number)
    current = read_progress(folder, numbers[-1]) if numbers else {}
    under_way = max(current, key=lambda name: current[name].at) if current and is_live else None
    names = configured.names
    hours = node_hours_by_stage(read_uses(folder, numbers))
    for name in [*names, *(name for name in told if name not in names)]:
        last = told.get(name)
        snapshot, at = (last.snapshot, last.at) if last else (None, None)
        # What is no stage of the config, such as the demo's pictures, leaves no mark when it is done.
        is_unmarked = configured.trouble is None and name not in names
        is_done = name in done or (is_unmarked and name != under_way)
        state = _stage_state(name, under_way, is_done=is_done, snapshot=snapshot)
        yield StageStatus(name, state, snapshot, at, hours.get(name, 0.0))


def _stage_state(name: str, under_way: str | None, *, is_done: bool, snapshot: StageSnapshot | None) -> StageState:
    if name == under_way and not (is_done and snapshot is not None and snapshot.done == snapshot.total):
        return StageState.RUNNING
    if is_done:
        return StageState.DONE
    return StageState.TO_DO if snapshot is None else StageState.UNFINISHED


def restarts_of(events: list[Event]) -> Iterator[Restart]:
    """Each start of a driver after the first, and what drivers started again."""
    drives = [event for event in events if event.what == DRIVE_EVENT]
    first = drives[0].drive if drives else 0
    for event in events:
        if event.what in (RETRY_EVENT, AGAIN_EVENT):
            yield Restart(event.at, event.text)
        elif event.what == DRIVE_EVENT and event.drive != first:
            before = [each for each in events if each.drive == event.drive - 1 and each.what in ENDINGS]
            if before and before[-1].what in (RunState.DONE, RunState.PARTIAL):
                continue  # another stage, or nothing at all, was to be done
            why = f"the driver before {before[-1].what}: {before[-1].text}" if before else "the driver before died"
            yield Restart(event.at, f"driven again by {event.who} ({why})")


ENDINGS = (RunState.STOPPED.value, RunState.FAILED.value, RunState.PARTIAL.value, RunState.DONE.value)
