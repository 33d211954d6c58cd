"""Removes checkpoints that are not wanted any more, and what was left of those that were never finished."""

from dataclasses import dataclass

from infra.storage import Storage
from training.checkpoint import (
    CHECKPOINTS_FOLDER,
    MARKER_FILE,
    RECEIPTS_FOLDER,
    committed_checkpoints,
    is_checkpoint_path,
    read_files,
    step_of,
)


@dataclass(frozen=True, slots=True)
class KeepRule:
    """Which checkpoints stay: the `newest` so many, and those whose step `every` divides, if it is given."""

    newest: int
    every: int | None = None


def prune_checkpoints(run: Storage, rule: KeepRule, just_written: str, best: str | None = None) -> None:
    """Removes the checkpoints that the rule does not keep, but never the best, and none from the one just written on.

    A later one may be another worker group's, which has taken over from a writer that was cut off. The marker goes
    first, so none is left half.
    """
    committed = committed_checkpoints(run)
    until_now = [path for path in committed if step_of(path) <= step_of(just_written)]
    kept = {*until_now[-rule.newest :], best, just_written}
    for path in until_now:
        if path in kept or (rule.every and step_of(path) % rule.every == 0):
            continue
        run.at(path).delete(MARKER_FILE)
        run.delete_folder(path)


def sweep_checkpoint(checkpoint: Storage) -> None:
    """Removes the files that a committed checkpoint's marker does not vouch for: receipts, and another attempt's."""
    wanted = {MARKER_FILE, *read_files(checkpoint)}
    for entry in checkpoint.list_files(recursive=True):
        if entry.path not in wanted:
            checkpoint.delete(entry.path)
    checkpoint.delete_folder(RECEIPTS_FOLDER)


def sweep_uncommitted(run: Storage) -> None:
    """Removes what a killed training left of an unfinished checkpoint; only its one driver may call this."""
    listed = run.list_files(CHECKPOINTS_FOLDER, recursive=True)
    folders = {"/".join(entry.path.split("/")[:2]) for entry in listed} | _local_folders(run)
    committed = set(committed_checkpoints(run))  # looked at last: one may be committed between the two
    for folder in filter(is_checkpoint_path, folders):
        if folder not in committed:
            run.delete_folder(folder)


def _local_folders(run: Storage) -> set[str]:
    """Also those that hold unfinished files only, which are never listed."""
    if not run.is_local or not run.local_path(CHECKPOINTS_FOLDER).is_dir():
        return set()
    return {f"{CHECKPOINTS_FOLDER}/{path.name}" for path in run.local_path(CHECKPOINTS_FOLDER).iterdir()}
