"""Makes a new run from a checkpoint of another one, with changes to its config."""

import json
import shutil
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from infra.append_log import SEGMENTS_SUFFIX, AppendLog, read_log
from infra.errors import ConfigError
from infra.lease import hold
from infra.storage import Storage, sha256_in
from orchestrator.config import RunConfig, config_of
from orchestrator.options import say_if_heard
from orchestrator.records import RUN_FILE, Event, record_event, this_process
from orchestrator.resume import stored_source
from orchestrator.run import CONFIG_FILE, check_run, create_run, read_identity
from orchestrator.yaml_source import apply_overrides
from training.checkpoint import (
    MARKER_FILE,
    CheckpointState,
    checkpoint_path,
    committed_checkpoints,
    problem_of,
    read_files,
    read_state,
    step_of,
)
from training.config import LockConfig, TrainConfig
from training.joining import LARGEST_UPDATE, largest_update, unlocked_towers
from training.records import METRICS_FILE, REPLACEMENTS_FILE

ORIGIN_KEY = "forked_from"  # of a run's identity


def fork_run(run: Storage, name: str, step: int, overrides: Sequence[str] = ()) -> Storage:
    """Copies the checkpoint and the records up to it into a new run beside the old one; returns its folder.

    Nothing is started. A fork that was killed goes on when it is asked for again; the new run's config comes last.
    Raises ConfigError where there is no such checkpoint, where another run of that name exists, and for a change that
    the checkpoint does not fit.
    """
    checkpoint = run.at(_checkpoint(run, step))
    source = stored_source(run)
    apply_overrides(source, list(overrides))
    source.values["name"] = name
    config = config_of(source)
    _require_fit(config, read_state(checkpoint), checkpoint)
    check_run(config)
    fork = config.folder
    origin = {"run": run.url, "step": step, "changes": list(overrides)}
    _require_free(fork, origin)  # before its lease, which the driver of another run may have
    with hold(fork, partial(say_if_heard, err=True)):
        _require_free(fork, origin)
        create_run(config, {ORIGIN_KEY: origin})
        for log in (METRICS_FILE, REPLACEMENTS_FILE):
            _copy_log(run, fork, log, step)
        _copy_checkpoint(checkpoint, fork.at(checkpoint_path(step)))
        record_event(fork, Event(time.time(), this_process(), "forked", f"from step {step} of {run.url}"))
        fork.write_bytes(CONFIG_FILE, config.to_yaml())
    return fork


def is_unfinished_fork(run: Storage) -> bool:
    """Whether the run is what a fork left that did not end."""
    return ORIGIN_KEY in read_identity(run) and not run.exists(CONFIG_FILE)


def _require_free(fork: Storage, origin: dict[str, Any]) -> None:
    if fork.exists(CONFIG_FILE) or (fork.exists(RUN_FILE) and not is_unfinished_fork(fork)):
        raise ConfigError(f"{fork.url} is there already.", "A fork is a new run.", "Give it a name that no run has.")
    begun = read_identity(fork)[ORIGIN_KEY] if fork.exists(RUN_FILE) else origin
    if begun != origin:
        changes = f" with {' '.join(begun['changes'])}" if begun["changes"] else ""
        raise ConfigError(
            f"{fork.url} holds an unfinished fork of {begun['run']} at step {begun['step']}{changes}.",
            "The same arguments go on with it.",
            f"Give those, or another name, or remove it with `diptych gc {fork.url} --delete`.",
        )


def _checkpoint(run: Storage, step: int) -> str:
    there = committed_checkpoints(run)
    path = checkpoint_path(step)
    if path not in there:
        steps = ", ".join(str(step_of(each)) for each in there) or "none"
        raise ConfigError(
            f"--step: got {step}; {run.url} has no checkpoint of that step.",
            f"Its checkpoints are of the steps {steps}.",
            "Name one of those.",
        )
    problem = problem_of(run.at(path))
    if problem is not None:
        raise ConfigError(f"{run.url}/{path} is damaged: {problem}.", "A fork begins from a whole checkpoint.", "")
    return path


def _require_fit(config: RunConfig, state: CheckpointState, checkpoint: Storage) -> None:
    if config.train is None:
        raise ConfigError("The config has no section train.", "A fork goes on with a training.", "Add one.")
    wanted = {"model": state.model, "loss": state.loss, "global_batch_size": state.batch_size, "seed": state.seed}
    for key, value in wanted.items():
        found = getattr(config.train, key)
        if found != value:
            raise ConfigError(
                f"train.{key}: got {found}; {checkpoint.url} is of a training with {value}.",
                "A fork keeps the model, the loss, the batch and the order of the samples.",
                "Leave that key as it is, or train anew with train.pretrained naming the checkpoint.",
            )
    _require_gentle_unlocking(config.train, LockConfig.model_validate(state.settings.get("lock", {})))


def _require_gentle_unlocking(train: TrainConfig, lock: LockConfig) -> None:
    """Raises ConfigError where the first updates of what the fork unlocks would be many times the learning rate."""
    towers, most = unlocked_towers(lock, train.lock), largest_update(train.beta1, train.beta2)
    if towers and most > LARGEST_UPDATE:
        raise ConfigError(
            f"train.lock: the {' and the '.join(towers)} tower was locked; with train.beta2 {train.beta2} its first "
            f"updates would be up to {most:.1f} times the learning rate, since its moments begin empty.",
            f"A fork unlocks a tower where that is at most {LARGEST_UPDATE:.0f} times.",
            "Set train.beta2=0.98 or lower, or train anew with train.pretrained naming the checkpoint.",
        )


def _copy_log(run: Storage, fork: Storage, name: str, step: int) -> None:
    lines = [line for line in read_log(run, name).decode().split("\n") if line.endswith("}")]
    wanted = [line for line in lines if json.loads(line)["step"] <= step]
    # What a killed fork left of it may end anywhere.
    fork.delete(name)
    fork.delete_folder(name + SEGMENTS_SUFFIX)
    if wanted:
        with AppendLog(fork, name) as log:
            for line in wanted:
                log.write(line)


def _copy_checkpoint(source: Storage, target: Storage) -> None:
    """The marker last, as when it was written; what is there and right stays."""
    files = read_files(source)
    for name in [*files, MARKER_FILE]:
        if name in files and target.exists(name) and sha256_in(target, name) == files[name].sha256:
            continue
        with tempfile.TemporaryDirectory() as scratch:
            copy = Path(scratch, name)
            with source.open_stream(name) as stream, copy.open("wb") as file:
                shutil.copyfileobj(stream, file, 8 << 20)
            target.put_file(copy, name)
