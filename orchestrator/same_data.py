"""Keeps a training on the data that it began with: a dataset or a view that changed would be another training."""

import json
from collections.abc import Sequence

from infra.errors import ConfigError
from infra.storage import Storage
from orchestrator.config import RunConfig, Stage
from orchestrator.driver import Driver
from orchestrator.stage_state import Verdict, inputs_of, plan_stages
from training.checkpoint import committed_checkpoints

DATA_FILE = "stages/train.data.json"


def refuse_to_change_data(config: RunConfig, stages: Sequence[Stage]) -> None:
    """Raises ConfigError when a stage would make anew the view of a training that has checkpoints already."""
    if config.train is None or not any(source.view for source in config.train.training_sources()):
        return
    before = [stage for stage in (Stage.ANNOTATE, Stage.CURATE) if stage in stages]
    stale = [plan.stage for plan in plan_stages(config, before) if plan.verdict is Verdict.STALE]
    if stale and committed_checkpoints(config.folder):
        raise ConfigError(
            f"The run {config.name} has checkpoints, and {' and '.join(stale)} would change the view under them.",
            "A training sees the same data to its end.",
            "Give the run another name, and the view too if the old one is still wanted.",
        )


def keep_data(driver: Driver, config: RunConfig) -> None:
    """Notes what the training begins with, or raises ConfigError when it began with something else."""
    found = inputs_of(Stage.TRAIN, config, driver.folder)["data"]
    before = _noted(driver.folder)
    if before is not None and before != found and committed_checkpoints(driver.folder):
        raise ConfigError(
            f"The run {config.name} has checkpoints of a training with other data: the dataset or its view changed.",
            "A training sees the same data to its end.",
            "Restore what it began with, or give the run another name.",
        )
    if before != found:
        driver.commit(DATA_FILE, {"data": found})


def _noted(folder: Storage) -> str | None:
    try:
        noted: str | None = json.loads(folder.read_bytes(DATA_FILE))["data"]
    except FileNotFoundError:
        return None
    return noted
