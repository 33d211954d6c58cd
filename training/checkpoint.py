"""Finds and reads the training's checkpoints: by parameter name, for any number of workers, committed by a marker.

A checkpoint is a folder of files of tensors, each written by one rank with the parameters that fell to it. Its marker
comes last, holds the state that is not tensors, and vouches for the size and SHA-256 of each file.
"""

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from infra.errors import CorruptData
from infra.storage import Storage, sha256_in

CHECKPOINTS_FOLDER = "checkpoints"
# Others beside them are the user's: a copy that was kept, or notes.
CHECKPOINT_FOLDER = re.compile(rf"{CHECKPOINTS_FOLDER}/step_(\d{{8}}|[1-9]\d{{8,}})")
MARKER_FILE = "checkpoint.json"
COPY_BYTES = 8 << 20  # at once
RECEIPTS_FOLDER = "receipts"  # what each rank has written, until the marker is


class TensorKind(StrEnum):
    """What a file of a checkpoint holds, name → tensor."""

    PARAMETERS = "parameters"  # fp32 masters
    MOMENTS = "moments"  # Adam's: NAME/exp_avg, NAME/exp_avg_sq
    BUFFERS = "buffers"  # batch normalisation's running statistics; none for most models
    AVERAGE = "average"  # the weights' moving average, where one is kept


@dataclass(frozen=True, slots=True)
class CheckpointState:
    """What a checkpoint knows besides its tensors.

    `step` steps are done: the next global batch is number `step`, and its positions follow from `batch_size`. Of them
    `skipped` changed no weight. `settings` are those of the training that made it; `losses` are the last steps'.
    """

    step: int
    model: str
    loss: str
    batch_size: int
    samples: int
    seed: int
    settings: dict[str, Any]
    skipped: int = 0
    losses: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class FileFacts:
    """What the marker vouches for of one file."""

    kind: TensorKind
    size_bytes: int
    sha256: str


def checkpoint_path(step: int) -> str:
    """Where the checkpoint after `step` steps lies in a run's folder."""
    return f"{CHECKPOINTS_FOLDER}/step_{step:08d}"


def step_of(path: str) -> int:
    """The steps that are done in a checkpoint at this path."""
    return int(path.rpartition("_")[2])


def is_checkpoint_path(path: str) -> bool:
    """Whether a checkpoint lies at this path of a run's folder, finished or not."""
    return CHECKPOINT_FOLDER.fullmatch(path) is not None


def committed_checkpoints(run: Storage) -> list[str]:
    """The paths of the checkpoints that have their marker, oldest first."""
    listed = run.list_files(CHECKPOINTS_FOLDER, recursive=True)
    marked = (folder for folder, _, name in (entry.path.rpartition("/") for entry in listed) if name == MARKER_FILE)
    return sorted(filter(is_checkpoint_path, marked), key=step_of)


def newest_checkpoint(run: Storage) -> str | None:
    """The newest committed checkpoint whose files have the sizes that the marker vouches for; or None."""
    return next((path for path in reversed(committed_checkpoints(run)) if size_problem(run.at(path)) is None), None)


def newest_whole_checkpoint(run: Storage) -> str | None:
    """The newest committed checkpoint whose every byte is right, which takes reading it; or None."""
    return next((path for path in reversed(committed_checkpoints(run)) if problem_of(run.at(path)) is None), None)


def identity_of(run: Storage, path: str | None) -> str | None:
    """Tells the checkpoint at the path apart from others that lay there, by its marker. None when there is none."""
    if path is None:
        return None
    try:
        return f"{path} {hashlib.sha256(run.at(path).read_bytes(MARKER_FILE)).hexdigest()}"
    except FileNotFoundError:
        return None


def set_aside(run: Storage, path: str) -> None:
    """Makes a damaged checkpoint none: without its marker it is not counted, and swept at the next start."""
    run.at(path).delete(MARKER_FILE)


def write_marker(checkpoint: Storage, state: CheckpointState, files: dict[str, FileFacts]) -> None:
    """Commits the checkpoint of these files."""
    marker = {"state": asdict(state), "files": {name: asdict(facts) for name, facts in sorted(files.items())}}
    checkpoint.write_bytes(MARKER_FILE, json.dumps(marker, indent=1).encode())


def read_files(checkpoint: Storage) -> dict[str, FileFacts]:
    """What the marker vouches for. Raises FileNotFoundError; ValueError, KeyError or TypeError for one that is torn."""
    return _files_in(json.loads(checkpoint.read_bytes(MARKER_FILE)))


def read_state(checkpoint: Storage) -> CheckpointState:
    """The state of a committed checkpoint. Raises CorruptData when it is not committed or a file is not as written."""
    problem = size_problem(checkpoint) if checkpoint.exists(MARKER_FILE) else f"{MARKER_FILE} is missing"
    if problem:
        raise CorruptData(
            f"{checkpoint.url} is no whole checkpoint: {problem}.",
            f"A checkpoint is whole once {MARKER_FILE} vouches for its files.",
            "Name another one of the run's checkpoints.",
        )
    return _state_in(json.loads(checkpoint.read_bytes(MARKER_FILE)))


def problem_of(checkpoint: Storage) -> str | None:
    """Why the checkpoint is not as it was written, by sizes and SHA-256 of all its files; None when it is."""
    return size_problem(checkpoint) or hash_problem(checkpoint)


def require_whole(checkpoint: Storage) -> None:
    """Raises CorruptData when a byte of the checkpoint is not as it was written."""
    problem = problem_of(checkpoint)
    if problem:
        raise CorruptData(
            f"{checkpoint.url} is damaged: {problem}.",
            "A checkpoint is taken only when each of its files has the SHA-256 that its marker vouches for.",
            "Name another one of the run's checkpoints.",
        )


def size_problem(checkpoint: Storage) -> str | None:
    """Why the checkpoint is not whole, by its files' sizes alone; None when it is."""
    try:
        marker = json.loads(checkpoint.read_bytes(MARKER_FILE))
        _state_in(marker)
        sizes = {entry.path: entry.size_bytes for entry in checkpoint.list_files()}
        for name, facts in _files_in(marker).items():
            if sizes.get(name) != facts.size_bytes:
                found = sizes.get(name, "no")
                return f"{name} has {found} bytes, not {facts.size_bytes}"
    except (ValueError, LookupError, TypeError, AttributeError, FileNotFoundError):
        return f"{MARKER_FILE} cannot be read"
    return None


def _files_in(marker: dict[str, Any]) -> dict[str, FileFacts]:
    files = marker["files"]
    return {name: FileFacts(**{**facts, "kind": TensorKind(facts["kind"])}) for name, facts in files.items()}


def _state_in(marker: dict[str, Any]) -> CheckpointState:
    state = marker["state"]
    return CheckpointState(**{**state, "losses": tuple(state["losses"])})


def hash_problem(checkpoint: Storage, share: int = 0, shares: int = 1) -> str | None:
    """Why the checkpoint is not as it was written, by the SHA-256 of one share of its files; None when it is."""
    for name, facts in sorted(read_files(checkpoint).items())[share::shares]:
        try:
            found = sha256_in(checkpoint, name)
        except FileNotFoundError:
            return f"{name} is missing"
        if found != facts.sha256:
            return f"{name} has another SHA-256"
    return None


def load_tensors(checkpoint: Storage, kind: TensorKind) -> dict[str, Any]:
    """The checkpoint's tensors of one kind by name, on the CPU; pages of local files are read when they are used."""
    from safetensors import safe_open

    tensors: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        names = [name for name, facts in read_files(checkpoint).items() if facts.kind is kind]
        for path in _on_this_machine(checkpoint, names, Path(scratch)):
            with safe_open(path, "pt") as file:
                tensors |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    return tensors


def load_moments(checkpoint: Storage) -> dict[str, dict[str, Any]]:
    """Adam's moments: name → moment → tensor, on the CPU."""
    moments: dict[str, dict[str, Any]] = {}
    for key, tensor in load_tensors(checkpoint, TensorKind.MOMENTS).items():
        name, _, moment = key.rpartition("/")
        moments.setdefault(name, {})[moment] = tensor
    return moments


def _on_this_machine(checkpoint: Storage, names: Iterable[str], scratch: Path) -> Iterable[Path]:
    for name in names:
        if checkpoint.is_local:
            yield checkpoint.local_path(name)
            continue
        yield copy_file(checkpoint, name, scratch)


def copy_file(checkpoint: Storage, name: str, folder: Path) -> Path:
    """Copies one file of the checkpoint into a folder of this machine; returns where it lies."""
    copy = folder / name
    with checkpoint.open_stream(name) as source, copy.open("wb") as target:
        shutil.copyfileobj(source, target, COPY_BYTES)
    return copy
