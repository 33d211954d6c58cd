"""A run's folder: what is kept in it, and the state that is read back from it."""

import json
import platform
import time
from dataclasses import asdict, dataclass
from enum import StrEnum
from importlib.metadata import version
from typing import Any

import yaml

from infra.errors import ConfigError
from infra.lease import holder_of
from infra.progress import StageSnapshot, snapshot_json
from infra.storage import Storage
from orchestrator.config import RunConfig, load_config
from training.checkpoint import CHECKPOINTS_FOLDER
from training.config import TrainConfig

RUN_FILE = "run.json"
CONFIG_FILE = "run.yaml"
PROGRESS_FILE = "progress.json"
OUTCOME_FILE = "outcome.json"
REPORT_FILE = "report.html"
EVALUATION_FOLDER = "evaluation"
VERSIONED_PACKAGES = (
    "diptych",
    "ray",
    "torch",
    "deepspeed",
    "open_clip_torch",
    "pyarrow",
    "opencv-python-headless",
)

# What may change between two starts of one training, because the result does not depend on it.
FREE_TRAIN_KEYS = frozenset(
    {
        "workers",
        "resize_check_s",
        "use_gpu",
        "threads_per_worker",
        "micro_batch_size",
        "zero_stage",
        "activation_checkpointing",
        "checkpoint_every",
        "checkpoint_every_samples",
        "checkpoint_every_minutes",
        "checkpoint_patience_minutes",
        "keep_checkpoints",
        "keep_checkpoint_every",
        "deepspeed",
        "optimizer_offload",
        "pin_cpus",
        "hang_timeout_s",
        "on_bad_step",
        "divergence_factor",
        "max_bad_steps",
        "validate_every",
        "validation",
        "best_score",
        "trackers",
        "profile_steps",
        "max_restarts",
        # Meant to change: what it leaves out is left out from then on.
        "exclude",
    }
)


class RunState(StrEnum):
    """Where a run stands."""

    NEW = "new"
    RUNNING = "running"
    STOPPED = "stopped"
    FAILED = "failed"
    DONE = "done"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the last driver of a run ended: its state, the reason in words, and when (Unix seconds)."""

    state: RunState
    reason: str
    at: float


@dataclass(frozen=True, slots=True)
class RunStatus:
    """What `diptych status` tells: all of it read from the run's folder."""

    name: str
    folder: str
    state: RunState
    reason: str
    stages_done: tuple[str, ...]
    progress: StageSnapshot | None
    progress_at: float | None
    step: int | None
    loss: float | None
    checkpoint: str | None


def check_run(config: RunConfig) -> None:
    """Raises OutputError when the run's folder can't be written, ConfigError when another training has begun in it."""
    config.folder.require_writable()
    _refuse_other_training(config, config.folder)


def open_run(config: RunConfig) -> Storage:
    """The run's folder with the resolved config in it; only its driver may call this. Raises as `check_run` does."""
    check_run(config)
    folder = config.folder
    folder.write_bytes(CONFIG_FILE, config.to_yaml())
    if not folder.exists(RUN_FILE):
        folder.write_bytes(RUN_FILE, _json(_identity(config)))
    return folder


def record_progress(folder: Storage, snapshot: StageSnapshot) -> None:
    """Keeps the progress for those who watch from outside."""
    folder.write_bytes(PROGRESS_FILE, snapshot_json(snapshot, at=time.time()))


def record_outcome(folder: Storage, state: RunState, reason: str) -> None:
    """Keeps how this driver ended."""
    folder.write_bytes(OUTCOME_FILE, _json(asdict(Outcome(state, reason, time.time()))))


def read_status(folder: Storage) -> RunStatus:
    """The state of the run in `folder`, derived from what lies there. Raises ConfigError when there is none."""
    from training.checkpoint import newest_checkpoint
    from training.records import read_metrics

    if not folder.exists(RUN_FILE):
        raise ConfigError(
            f"{folder.url} holds no run ({RUN_FILE} is missing).",
            "A run's folder is STORAGE/NAME of its config.",
            "Give that folder.",
        )
    state, reason = _state(folder)
    snapshot, at = _read_progress(folder)
    metrics = read_metrics(folder)
    checkpoint = newest_checkpoint(folder)
    return RunStatus(
        name=json.loads(folder.read_bytes(RUN_FILE))["name"],
        folder=folder.url,
        state=state,
        reason=reason,
        stages_done=stages_done(folder),
        progress=snapshot if state is RunState.RUNNING else None,
        progress_at=at if state is RunState.RUNNING else None,
        step=metrics[-1].step if metrics else None,
        loss=metrics[-1].loss if metrics else None,
        checkpoint=checkpoint,
    )


def mark_stage_done(folder: Storage, stage: str, facts: dict[str, Any]) -> None:
    """Notes in the folder that a stage ended with its result; `facts` say what it was made from."""
    folder.write_bytes(f"stages/{stage}.json", _json(facts))


def stage_facts(folder: Storage, stage: str) -> dict[str, Any] | None:
    """What `mark_stage_done` noted, or None."""
    path = f"stages/{stage}.json"
    facts: dict[str, Any] | None = json.loads(folder.read_bytes(path)) if folder.exists(path) else None
    return facts


def stages_done(folder: Storage) -> tuple[str, ...]:
    """The stages that have ended with their result, in the order of the pipeline."""
    names = {entry.path.removeprefix("stages/").removesuffix(".json") for entry in folder.list_files("stages")}
    return tuple(stage for stage in ("build", "train", "evaluate", "report") if stage in names)


def _identity(config: RunConfig) -> dict[str, Any]:
    return {
        "name": config.name,
        "created": time.time(),
        "python": platform.python_version(),
        "versions": {package: version(package) for package in VERSIONED_PACKAGES},
    }


def read_training(folder: Storage) -> TrainConfig:
    """The training of the run in `folder`, as it was last started. Raises ConfigError when there is none."""
    if folder.exists(CONFIG_FILE):
        config = load_config(folder.local_path(CONFIG_FILE))
        if config.train is not None:
            return config.train
    raise ConfigError(
        f"{folder.url} holds no training ({CONFIG_FILE} is missing, or has no section train).",
        "A run's folder has one once `diptych train` or `diptych run` was started.",
        "Give a run's folder, for example runs/birds.",
    )


def _refuse_other_training(config: RunConfig, folder: Storage) -> None:
    if (
        config.train is None
        or not folder.exists(CONFIG_FILE)
        or not folder.list_files(CHECKPOINTS_FOLDER, recursive=True)
    ):
        return
    before = _result_keys(yaml.safe_load(folder.read_bytes(CONFIG_FILE)).get("train") or {})
    now = _result_keys(config.train.model_dump(mode="json", exclude_none=True))
    changed = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
    if before and changed:
        shown = ", ".join(f"train.{key} {before.get(key, 'unset')} → {now.get(key, 'unset')}" for key in changed)
        raise ConfigError(
            f"The run {config.name} has checkpoints of a training with other settings: {shown}.",
            f"Once begun, only {', '.join(sorted(FREE_TRAIN_KEYS))} may change.",
            f"Give the run another name, or remove {folder.url} to begin anew.",
        )


def _result_keys(train: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in train.items() if key not in FREE_TRAIN_KEYS}


def _state(folder: Storage) -> tuple[RunState, str]:
    holder = holder_of(folder)
    if holder is not None:
        return RunState.RUNNING, f"driven by process {holder.pid} on {holder.host}"
    if folder.exists(OUTCOME_FILE):
        raw = json.loads(folder.read_bytes(OUTCOME_FILE))
        return RunState(raw["state"]), raw["reason"]
    if folder.exists(PROGRESS_FILE):
        return RunState.STOPPED, "its driver was killed; run the same command again and it goes on"
    return RunState.NEW, "not started yet"


def _read_progress(folder: Storage) -> tuple[StageSnapshot | None, float | None]:
    if not folder.exists(PROGRESS_FILE):
        return None, None
    raw = json.loads(folder.read_bytes(PROGRESS_FILE))
    at = raw.pop("at")
    return StageSnapshot(**raw), at


def _json(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()
