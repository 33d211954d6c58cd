"""Saves and loads the training's state: by parameter name, for any number of workers, committed by a marker."""

import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from infra.errors import CorruptData
from infra.storage import Storage, sha256_in, sha256_of_file

CHECKPOINTS_FOLDER = "checkpoints"
MARKER_FILE = "checkpoint.json"  # written last; vouches for the files below
PARAMETERS_FILE = "parameters.safetensors"  # fp32 masters by name
MOMENTS_FILE = "moments.safetensors"  # Adam's moments: NAME/exp_avg, NAME/exp_avg_sq
BUFFERS_FILE = "buffers.safetensors"  # batch normalisation's running statistics by name; empty for most models
AVERAGE_FILE = "average.safetensors"  # the weights' moving average by name; empty without one
STATE_FILE = "state.json"


@dataclass(frozen=True, slots=True)
class CheckpointState:
    """What a checkpoint knows besides its tensors.

    `step` steps are done: the next global batch is number `step`, and its positions follow from `batch_size`.
    `settings` are those of the training that made it.
    """

    step: int
    model: str
    loss: str
    batch_size: int
    samples: int
    seed: int
    settings: dict[str, Any]


def checkpoint_path(step: int) -> str:
    """Where the checkpoint after `step` steps lies in a run's folder."""
    return f"{CHECKPOINTS_FOLDER}/step_{step:08d}"


def committed_checkpoints(run: Storage) -> list[str]:
    """The paths of the checkpoints that have their marker, oldest first."""
    listed = run.list_files(CHECKPOINTS_FOLDER, recursive=True)
    return sorted(entry.path.rpartition("/")[0] for entry in listed if entry.path.endswith(f"/{MARKER_FILE}"))


def newest_checkpoint(run: Storage) -> str | None:
    """The newest committed checkpoint whose files have the sizes that the marker vouches for; or None."""
    return next((path for path in reversed(committed_checkpoints(run)) if not _size_problem(run.at(path))), None)


def newest_intact_checkpoint(run: Storage) -> tuple[str | None, list[str]]:
    """The newest checkpoint whose every byte is right, and why newer ones were passed over."""
    problems: list[str] = []
    for path in reversed(committed_checkpoints(run)):
        problem = _size_problem(run.at(path)) or _hash_problem(run.at(path))
        if problem is None:
            return path, problems
        problems.append(f"{path} is passed over: {problem}")
    return None, problems


def save_checkpoint(
    run: Storage,
    state: CheckpointState,
    parameters: dict[str, Any],
    moments: dict[str, dict[str, Any]],
    buffers: dict[str, Any],
    average: dict[str, Any],
) -> str:
    """Writes and commits a checkpoint; all but the moments are name → tensor. Returns its path."""
    from safetensors.torch import save_file

    folder = run.at(checkpoint_path(state.step))
    flat_moments = {f"{name}/{key}": tensor for name, both in moments.items() for key, tensor in both.items()}
    with tempfile.TemporaryDirectory(dir=_scratch(run)) as scratch:
        save_file(parameters, Path(scratch, PARAMETERS_FILE))
        save_file(flat_moments, Path(scratch, MOMENTS_FILE))
        save_file(buffers, Path(scratch, BUFFERS_FILE))
        save_file(average, Path(scratch, AVERAGE_FILE))
        Path(scratch, STATE_FILE).write_text(json.dumps(asdict(state), indent=1))
        files = {}
        for name in (PARAMETERS_FILE, MOMENTS_FILE, BUFFERS_FILE, AVERAGE_FILE, STATE_FILE):
            source = Path(scratch, name)
            files[name] = {"size_bytes": source.stat().st_size, "sha256": sha256_of_file(source)}
            folder.put_file(source, name)
    folder.write_bytes(MARKER_FILE, json.dumps({"step": state.step, "files": files}, indent=1).encode())
    return checkpoint_path(state.step)


def prune_checkpoints(run: Storage, keep: int) -> None:
    """Removes all but the newest `keep` committed checkpoints; the marker goes first, so none is left half."""
    for path in committed_checkpoints(run)[:-keep]:
        run.at(path).delete(MARKER_FILE)
        run.delete_folder(path)


def sweep_uncommitted(run: Storage) -> None:
    """Removes what a killed training left of an unfinished checkpoint; only its one driver may call this."""
    if not run.is_local or not run.local_path(CHECKPOINTS_FOLDER).is_dir():
        return
    committed = set(committed_checkpoints(run))
    for folder in run.local_path(CHECKPOINTS_FOLDER).iterdir():
        if f"{CHECKPOINTS_FOLDER}/{folder.name}" not in committed:
            run.delete_folder(f"{CHECKPOINTS_FOLDER}/{folder.name}")


def read_state(checkpoint: Storage) -> CheckpointState:
    """The state of a committed checkpoint. Raises CorruptData when it is not committed or a file is not as written."""
    problem = _size_problem(checkpoint) if checkpoint.exists(MARKER_FILE) else f"{MARKER_FILE} is missing"
    if problem:
        raise CorruptData(
            f"{checkpoint.url} is no whole checkpoint: {problem}.",
            f"A checkpoint is whole once {MARKER_FILE} vouches for its files.",
            "Name another one of the run's checkpoints.",
        )
    return CheckpointState(**json.loads(checkpoint.read_bytes(STATE_FILE)))


def load_parameters(checkpoint: Storage) -> dict[str, Any]:
    """The fp32 parameters by name, on the CPU."""
    return _load(checkpoint, PARAMETERS_FILE)


def load_buffers(checkpoint: Storage) -> dict[str, Any]:
    """What the model keeps beside its parameters, by name, on the CPU."""
    return _load(checkpoint, BUFFERS_FILE)


def load_average(checkpoint: Storage) -> dict[str, Any]:
    """The weights' moving average by name, on the CPU; empty when none was kept."""
    return _load(checkpoint, AVERAGE_FILE)


def load_moments(checkpoint: Storage) -> dict[str, dict[str, Any]]:
    """Adam's moments: name → moment → tensor, on the CPU."""
    moments: dict[str, dict[str, Any]] = {}
    for key, tensor in _load(checkpoint, MOMENTS_FILE).items():
        name, _, moment = key.rpartition("/")
        moments.setdefault(name, {})[moment] = tensor
    return moments


def _load(checkpoint: Storage, file: str) -> dict[str, Any]:
    from safetensors.torch import load

    tensors: dict[str, Any] = load(checkpoint.read_bytes(file))
    return tensors


def _size_problem(checkpoint: Storage) -> str | None:
    try:
        files = json.loads(checkpoint.read_bytes(MARKER_FILE))["files"]
        for name, facts in files.items():
            size = checkpoint.size_bytes(name)
            if size != facts["size_bytes"]:
                return f"{name} has {'no' if size is None else size} bytes, not {facts['size_bytes']}"
    except (ValueError, KeyError, TypeError, FileNotFoundError):
        return f"{MARKER_FILE} cannot be read"
    return None


def _hash_problem(checkpoint: Storage) -> str | None:
    files = json.loads(checkpoint.read_bytes(MARKER_FILE))["files"]
    for name, facts in files.items():
        if sha256_in(checkpoint, name) != facts["sha256"]:
            return f"{name} has another SHA-256"
    return None


def _scratch(run: Storage) -> Path | None:
    """Beside the checkpoints where that is local, so that moving a file there is a rename."""
    if not run.is_local:
        return None
    folder = run.local_path(CHECKPOINTS_FOLDER)
    folder.mkdir(parents=True, exist_ok=True)
    return folder
