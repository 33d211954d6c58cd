"""A whole small pipeline, from a local web to an exported model, as a config; and what it ends with."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from counting_web import CountingWeb

from infra.storage import Storage
from training.checkpoint import TensorKind, load_tensors, newest_checkpoint
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
