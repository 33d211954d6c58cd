"""A run's folder: who it is, its config, and what each of its stages left."""

import json
import platform
import secrets
import time
from importlib.metadata import version
from typing import Any

from infra.conditions import require_conditions
from infra.errors import ConfigError, OutputError
from infra.json_record import read_record
from infra.storage import Storage
from orchestrator.config import RunConfig, Stage, config_of
from orchestrator.driver import Driver
from orchestrator.records import RUN_FILE, encode
from orchestrator.yaml_source import parse_yaml
from training.checkpoint import CHECKPOINTS_FOLDER
from training.config import TrainConfig

CONFIG_FILE = "run.yaml"
REPORT_FILE = "report.html"
EVALUATION_FOLDER = "evaluation"
EXPORT_FOLDER = "export"
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
        "max_error_restarts",
        # Meant to change: what it leaves out is left out from then on.
        "exclude",
    }
)


def check_run(config: RunConfig) -> None:
    """Raises OutputError when the run's folder can't be written, ConfigError when another training has begun in it."""
    require_own_place(config.folder)
    _refuse_other_training(config, config.folder)


def require_own_place(folder: Storage) -> None:
    """Raises OutputError unless the folder can be written, and keeps two drivers apart."""
    if folder.s3 is not None:
        require_conditions(folder.url)
    elif folder.is_local:
        folder.require_writable()
    else:
        raise OutputError(
            f"storage: {folder.url} has no conditional writes here, so that two drivers could not be kept apart.",
            "Runs lie on S3 or a store that speaks its protocol, or in a folder of a local or mounted file system.",
            "Choose one of those.",
        )


def open_run(driver: Driver, config: RunConfig) -> None:
    """Writes the resolved config into the run's folder, and at the first time who the run is. Raises as `check_run`."""
    check_run(config)
    create_run(config)
    driver.require_lease()
    driver.folder.write_bytes(CONFIG_FILE, config.to_yaml())


def with_stored_sections(config: RunConfig) -> RunConfig:
    """The config, and of the one that lies in its run's folder the sections that it does not mention.

    A section that it sets to null is left out from then on.
    """
    if not config.folder.exists(CONFIG_FILE):
        return config
    stored = read_config(config.folder)
    kept = {stage.value: getattr(stored, stage.value) for stage in Stage if stage.value not in config.model_fields_set}
    return config.model_copy(update=kept)


def create_run(config: RunConfig, more: dict[str, Any] | None = None) -> bool:
    """Writes who the run is, and more that is known of it, unless it is there; says whether this was the first."""
    return config.folder.create(RUN_FILE, encode(_identity(config) | (more or {})))


def read_identity(folder: Storage) -> dict[str, Any]:
    """Who the run is. Raises ConfigError when the folder holds none, InputError when that cannot be read."""
    try:
        return read_record(folder, RUN_FILE, lambda raw: {"name": str(raw["name"]), **raw})
    except FileNotFoundError as error:
        raise ConfigError(
            f"{folder.url} holds no run ({RUN_FILE} is missing).",
            "A run's folder is STORAGE/NAME of its config.",
            "Give that folder.",
        ) from error


def mark_stage_done(driver: Driver, stage: str, facts: dict[str, Any]) -> None:
    """Notes in the folder that a stage ended with its result; `facts` say what it was made from. Raises LeaseLost."""
    driver.commit(f"stages/{stage}.json", {"made_from": facts, "at": time.time()})


def stage_facts(folder: Storage, stage: str) -> dict[str, Any] | None:
    """What `mark_stage_done` noted, or None."""
    path = f"stages/{stage}.json"
    facts: dict[str, Any] | None = json.loads(folder.read_bytes(path))["made_from"] if folder.exists(path) else None
    return facts


def stages_done(folder: Storage) -> tuple[str, ...]:
    """The stages that have ended with their result, in the order of the pipeline."""
    names = {entry.path.removeprefix("stages/").removesuffix(".json") for entry in folder.list_files("stages")}
    return tuple(stage for stage in Stage if stage in names)


def _identity(config: RunConfig) -> dict[str, Any]:
    return {
        "name": config.name,
        "id": secrets.token_hex(4),
        "created": time.time(),
        "python": platform.python_version(),
        "versions": {package: version(package) for package in VERSIONED_PACKAGES},
    }


def read_config(folder: Storage) -> RunConfig:
    """The run's config as it was last started. Raises ConfigError when there is none."""
    try:
        text = folder.read_bytes(CONFIG_FILE).decode(errors="replace")
    except FileNotFoundError as error:
        raise ConfigError(
            f"{folder.url} holds no run ({CONFIG_FILE} is missing).",
            "A run's folder has one once the run was started.",
            "Give a run's folder, for example runs/birds.",
        ) from error
    return config_of(parse_yaml(text, f"{folder.url}/{CONFIG_FILE}"))


def read_training(folder: Storage) -> TrainConfig:
    """The training of the run in `folder`, as it was last started. Raises ConfigError when there is none."""
    if folder.exists(CONFIG_FILE):
        config = read_config(folder)
        if config.train is not None:
            return config.train
    raise ConfigError(
        f"{folder.url} holds no training ({CONFIG_FILE} is missing, or has no section train).",
        "A run's folder has one once `diptych train` or `diptych run` was started.",
        "Give a run's folder, for example runs/birds.",
    )


def _refuse_other_training(config: RunConfig, folder: Storage) -> None:
    if not folder.exists(CONFIG_FILE) or not folder.list_files(CHECKPOINTS_FOLDER, recursive=True):
        return
    stored = read_config(folder).train
    if stored is None:
        return
    if config.train is None:
        raise ConfigError(
            f"The run {config.name} has checkpoints of a training, and the config has no section train.",
            "Once begun, the training stays part of its run.",
            f"Leave its section as it lies in {folder.url}/{CONFIG_FILE}, or give the run another name.",
        )
    before, now = (result_keys(train.model_dump(mode="json")) for train in (stored, config.train))
    changed = sorted(key for key in now if before[key] != now[key])
    if changed:
        shown = ", ".join(f"train.{key} {before[key]} → {now[key]}" for key in changed)
        raise ConfigError(
            f"The run {config.name} has checkpoints of a training with other settings: {shown}.",
            f"Once begun, only {', '.join(sorted(FREE_TRAIN_KEYS))} may change.",
            f"Give the run another name, or remove {folder.url} to begin anew.",
        )


def refuse_other_config(config: RunConfig, folder: Storage) -> None:
    """Raises ConfigError, with the differences, when the run in the folder is of another config.

    What its results do not depend on may differ.
    """
    # Both in full: a config of an earlier version lacks the keys that are new. A run's folder may have been moved.
    before, now = (
        _flat(each.model_dump(mode="json", exclude={"storage", "name"})) for each in (read_config(folder), config)
    )
    changed = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
    changed = [key for key in changed if key.split(".")[:2] not in [["train", free] for free in FREE_TRAIN_KEYS]]
    if changed:
        shown = "; ".join(f"{key} {before.get(key, 'unset')} → {now.get(key, 'unset')}" for key in changed)
        raise ConfigError(
            f"The run {config.name} exists in {config.storage} with another config: {shown}.",
            f"Of a run's config only {', '.join(sorted(FREE_TRAIN_KEYS))} of its training may change.",
            "Give the new run another name, or make it from the old one's checkpoint with `diptych fork`.",
        )


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {path: value}
    flat: dict[str, Any] = {}
    for key, item in value.items():
        flat |= _flat(item, f"{path}.{key}".lstrip("."))
    return flat


def result_keys(train: dict[str, Any]) -> dict[str, Any]:
    """Of a dumped section train, what its result depends on."""
    return {key: value for key, value in train.items() if key not in FREE_TRAIN_KEYS}
