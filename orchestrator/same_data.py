"""Keeps a training on the data that it began with: a dataset or a view that changed would be another training."""

import json

from datapipe.view_file import view_path
from infra.errors import ConfigError
from infra.storage import Storage, storage_of
from orchestrator.config import RunConfig, Stage
from orchestrator.driver import Driver
from orchestrator.stage_state import inputs_of
from training.checkpoint import committed_checkpoints

DATA_FILE = "stages/train.data.json"


def refuse_to_change_view(config: RunConfig, path: str, data: bytes) -> None:
    """Raises ConfigError when these bytes would change the view of a training of the run that has checkpoints."""
    if config.train is None or config.curate is None or not committed_checkpoints(config.folder):
        return
    dataset = storage_of(config.curate.data)
    trained = [
        storage_of(source.path).at(view_path(source.view)) for source in config.train.training_sources() if source.view
    ]
    if dataset.at(path) in trained and dataset.exists(path) and dataset.read_bytes(path) != data:
        raise ConfigError(
            f"The run {config.name} has checkpoints of a training on {path}, which is another view now.",
            "A training sees the same data to its end, so the view was left as it is.",
            "Give the run another name, and the view (curate.view) too if the old one is still wanted.",
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
