"""A whole small pipeline, from a local web to an exported model, as a config; and what it ends with."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from counting_web import CountingWeb

from datapipe.dataset import MANIFEST_FILE
from infra.storage import Storage, storage_of
from orchestrator.run import read_config
from training.checkpoint import TensorKind, load_tensors, newest_checkpoint
from training.export import CARD_FILE, WEIGHTS_FILE
from training.records import read_evaluation, read_metrics

ROWS, ROWS_PER_SHARD, STEPS = 60, 20, 50


def write_pipeline(folder: Path, web: CountingWeb, storage: str, name: str, **train: Any) -> str:
    """Writes NAME.yaml into the folder; the run and its dataset lie in `storage`. Returns the config's file name."""
    links = [web.url(number) for number in range(ROWS)]
    captions = [f"colour number {number}" for number in range(ROWS)]
    pq.write_table(pa.table({"url": links, "caption": captions}), folder / "urls.parquet")
    config = {
        "name": name,
        "storage": f"{storage}/runs",
        "build": {
            "input": str(folder / "urls.parquet"),
            "output": f"{storage}/datasets/{name}",
            "number_sample_per_shard": ROWS_PER_SHARD,
            "image_size": 64,
            "tasks": 2,
            "timeout": 120.0,  # longer than a test holds a picture back
            "allow_private_addresses": ["127.0.0.0/8"],
        },
        "annotate": {"data": "${build.output}", "phash": True},
        "curate": {"data": "${build.output}", "view": "distinct", "deduplicate": {"column": "sha256"}},
        "train": {
            "data": {"path": "${build.output}", "view": "${curate.view}"},
            "held_out": 0.2,
            "model": "diptych-tiny",
            "global_batch_size": 16,
            "steps": STEPS,
            "lr": 1.0e-3,
            "workers": 2,
            "use_gpu": False,
            "threads_per_worker": 1,
            "checkpoint_every": 3,
            **train,
        },
        "evaluate": {"retrieval": {}},
        "export": {},
    }
    (folder / f"{name}.yaml").write_text(json.dumps(config))
    return f"{name}.yaml"


def losses_of(run: Storage) -> dict[int, float]:
    return {metrics.step: metrics.loss for metrics in read_metrics(run)}


def scores_of(run: Storage) -> dict[str, float]:
    return {score.name: score.value for score in read_evaluation(run.at("evaluation")).scores}


def weights_of(run: Storage) -> dict[str, Any]:
    checkpoint = newest_checkpoint(run)
    assert checkpoint is not None
    return load_tensors(run.at(checkpoint), TensorKind.PARAMETERS)


def assert_same_result(run: Storage, undisturbed: Storage) -> None:
    """Losses, weights, scores and the export are those of the run that nobody disturbed."""
    assert losses_of(run) == losses_of(undisturbed)
    assert scores_of(run) == scores_of(undisturbed)
    exported = [read_export(folder) for folder in (run, undisturbed)]
    assert exported[0] == exported[1] and WEIGHTS_FILE in exported[0]
    ours, theirs = weights_of(run), weights_of(undisturbed)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def read_export(run: Storage) -> dict[str, bytes]:
    """All but the card, which has the run's name."""
    folder = run.at("export")
    return {entry.path: folder.read_bytes(entry.path) for entry in folder.list_files() if entry.path != CARD_FILE}


def dataset_of(run: Storage) -> dict[str, bytes]:
    """The files of the run's dataset that the input and the settings alone determine."""
    config = read_config(run)
    assert config.build is not None
    output = storage_of(config.build.output)
    names = [entry.path for entry in output.list_files() if entry.path.endswith((".tar", ".parquet", MANIFEST_FILE))]
    return {name: output.read_bytes(name) for name in names}
