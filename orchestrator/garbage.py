"""Finds and removes what nothing refers to in a run's folder; never the only good checkpoint."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from infra.errors import ConfigError, InputError, first_line
from infra.lease import LEASE_FILE, hold, holder_of
from infra.local_files import TEMPORARY_SUFFIX
from infra.storage import Storage
from orchestrator.fork import is_unfinished_fork
from orchestrator.records import RUN_FILE, read_standing
from orchestrator.run import CONFIG_FILE, read_config
from training.best import best_checkpoint
from training.checkpoint import (
    CHECKPOINTS_FOLDER,
    MARKER_FILE,
    committed_checkpoints,
    hash_problem,
    is_checkpoint_path,
    read_files,
    size_problem,
    step_of,
)
from training.checkpoint_keep import KeepRule


class GarbageKind(StrEnum):
    """Why something is not needed any more."""

    TORN_CHECKPOINT = "torn checkpoint"  # its marker was never written
    STRAY_FILE = "stray file"  # of another attempt at a checkpoint that is committed
    SUPERSEDED = "superseded checkpoint"  # more than keep_checkpoints asks for
    OPEN_UPLOAD = "open upload"  # of a writer that died
    UNFINISHED_FILE = "unfinished file"  # of a writer that died, on a local disk
    UNFINISHED_FORK = "unfinished fork"  # all of a run whose config, which comes last, was never written


@dataclass(frozen=True, slots=True)
class Garbage:
    """One thing that nothing refers to; `path` is below the run's folder, `upload` an open upload's name."""

    kind: GarbageKind
    path: str
    size_bytes: int
    upload: str = ""


@dataclass(frozen=True, slots=True)
class RunGarbage:
    """What was found in one run; `skipped` is why nothing was looked for."""

    run: str
    found: tuple[Garbage, ...]
    skipped: str = ""

    @property
    def size_bytes(self) -> int:
        """All of it together; what an open upload takes is not known."""
        return sum(item.size_bytes for item in self.found)


def collect_garbage(run: Storage, *, delete: bool) -> RunGarbage:
    """Lists what nothing refers to, and removes it if asked to.

    A run that somebody drives is left alone, and one that cannot be read here: what it keeps is not known.
    """
    try:
        return _collect(run, delete=delete)
    except (ConfigError, InputError) as error:
        return RunGarbage(run.url, (), f"unreadable: {first_line(error)}")


def _collect(run: Storage, *, delete: bool) -> RunGarbage:
    if is_unfinished_fork(run):
        return _collect_fork(run, delete=delete)
    standing = read_standing(run)
    if not standing.state.is_ended:
        return RunGarbage(run.url, (), f"it is {standing.state}: {standing.reason}")
    if not delete:
        return RunGarbage(run.url, tuple(_garbage(run)))
    # Held, so that no driver begins to write what looks like garbage.
    with hold(run, lambda _: None):
        found = tuple(_garbage(run))
        for item in found:
            _delete(run, item)
    return RunGarbage(run.url, found)


def _collect_fork(run: Storage, *, delete: bool) -> RunGarbage:
    holder = holder_of(run)
    if holder is not None:
        return RunGarbage(run.url, (), f"it is being forked by {holder}")
    if not delete:
        return RunGarbage(run.url, _whole_folder(run))
    try:
        with hold(run, lambda _: None):
            found = _whole_folder(run) if is_unfinished_fork(run) else ()
            _delete_fork(run, found)
    finally:
        if run.is_local:
            _remove_if_empty(run.local_path())  # it holds a lease where another fork has begun meanwhile
    return RunGarbage(run.url, found)


def _delete_fork(run: Storage, found: tuple[Garbage, ...]) -> None:
    # Who the run is goes last: until then it is listed.
    for item in sorted(found, key=lambda item: item.path == RUN_FILE):
        _delete(run, item)
    if found and run.is_local:
        root = run.local_path()
        for folder in sorted((path for path in root.rglob("*") if path.is_dir()), reverse=True):  # the inner ones first
            _remove_if_empty(folder)


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()


def _whole_folder(run: Storage) -> tuple[Garbage, ...]:
    files = (entry for entry in run.list_files(recursive=True) if entry.path != LEASE_FILE)
    whole = (Garbage(GarbageKind.UNFINISHED_FORK, entry.path, entry.size_bytes) for entry in files)
    return (*whole, *_unfinished_files(run, GarbageKind.UNFINISHED_FORK))


def checkpoints_to_keep(run: Storage, committed: list[str], rule: KeepRule) -> set[str]:
    """Those that the rule keeps, the best, and the newest one whose every byte is right."""
    by_rule = {path for path in committed if rule.every and step_of(path) % rule.every == 0}
    best = best_checkpoint(run)
    good = next((path for path in reversed(committed) if _is_good(run.at(path))), None)
    return {*committed[-rule.newest :], *by_rule, *(path for path in (best, good) if path is not None)}


def _garbage(run: Storage) -> Iterator[Garbage]:
    committed = committed_checkpoints(run)
    sizes = {entry.path: entry.size_bytes for entry in run.list_files(CHECKPOINTS_FOLDER, recursive=True)}
    folders = sorted({"/".join(path.split("/")[:2]) for path in sizes})
    for folder in filter(is_checkpoint_path, folders):
        if folder not in committed:
            yield Garbage(GarbageKind.TORN_CHECKPOINT, folder, _size(sizes, folder))
    kept = checkpoints_to_keep(run, committed, _keep_rule(run))
    for folder in committed:
        if folder not in kept:
            yield Garbage(GarbageKind.SUPERSEDED, folder, _size(sizes, folder))
            continue
        if size_problem(run.at(folder)) is None:
            wanted = {f"{folder}/{name}" for name in (MARKER_FILE, *read_files(run.at(folder)))}
            for path in sorted(path for path in sizes if path.startswith(f"{folder}/") and path not in wanted):
                yield Garbage(GarbageKind.STRAY_FILE, path, sizes[path])
    if run.s3 is not None:
        for upload in run.s3.open_uploads():
            yield Garbage(GarbageKind.OPEN_UPLOAD, upload.path, 0, upload.upload_id)
    yield from _unfinished_files(run, GarbageKind.UNFINISHED_FILE)


def _unfinished_files(run: Storage, kind: GarbageKind) -> Iterator[Garbage]:
    if run.is_local:
        root = run.local_path()
        for file in sorted(root.rglob(f".*{TEMPORARY_SUFFIX}")):
            yield Garbage(kind, str(file.relative_to(root)), file.stat().st_size)


def _delete(run: Storage, item: Garbage) -> None:
    match item.kind:
        case GarbageKind.TORN_CHECKPOINT:
            run.delete_folder(item.path)
        case GarbageKind.SUPERSEDED:
            run.at(item.path).delete(MARKER_FILE)  # first, so that none is left half
            run.delete_folder(item.path)
        case GarbageKind.STRAY_FILE | GarbageKind.UNFINISHED_FORK:
            run.delete(item.path)
        case GarbageKind.OPEN_UPLOAD:
            assert run.s3 is not None
            run.s3.abort_upload(item.path, item.upload)
        case GarbageKind.UNFINISHED_FILE:
            run.local_path(item.path).unlink(missing_ok=True)


def _is_good(checkpoint: Storage) -> bool:
    return size_problem(checkpoint) is None and hash_problem(checkpoint) is None


def _keep_rule(run: Storage) -> KeepRule:
    train = read_config(run).train if run.exists(CONFIG_FILE) else None
    if train is None:
        return KeepRule(1 << 30)  # nothing says what may go
    return KeepRule(train.keep_checkpoints, train.keep_checkpoint_every)


def _size(sizes: dict[str, int], folder: str) -> int:
    return sum(size for path, size in sizes.items() if path.startswith(f"{folder}/"))
