"""The needs that the tests of the deployment files fill in."""

import dataclasses
from typing import Any

from infra.deploy.needs import ClusterNeeds

CONFIG = """\
name: birds
storage: /data/runs
build: {input: '/data/urls/*.parquet', output: /data/birds, tasks: 20}
train: {data: /data/birds, steps: 10, workers: [4, 20], use_gpu: true}
"""
NEEDS = ClusterNeeds(
    name="birds",
    config=CONFIG,
    min_workers=4,
    max_workers=20,
    use_gpu=True,
    build_tasks=20,
    shared_folder="/data",
    workers_per_node=8,
)


def needs(**changes: Any) -> ClusterNeeds:
    """Those needs, with changes."""
    return dataclasses.replace(NEEDS, **changes)
