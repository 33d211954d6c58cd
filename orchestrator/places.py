"""Finds the local places of a run's config, which a cluster's nodes see only where all of them mount it."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from infra.errors import ConfigError
from infra.settings import absolute_place
from orchestrator.config import RunConfig

RESULTS = re.compile(r"^storage$|^build\.output$|\.data(\.path)?$")  # runs and datasets; other places are only read


def local_places(config: RunConfig) -> list[tuple[str, str]]:
    """Every local path of the config, after its key."""
    # A condition's value is the user's, and no place.
    return [
        (key, text)
        for key, text in texts_of(config.model_dump(mode="json"))
        if text.startswith("/") and ".where." not in key
    ]


def require_cluster_places(config: RunConfig, shared_folder: str | None) -> str | None:
    """What is to be known of the config's local places on a cluster; None where it has none.

    Raises ConfigError when the run or a dataset lies in one outside the folder that all nodes are said to mount.
    """
    places = local_places(config)
    shared = None if shared_folder is None else absolute_place(shared_folder)
    outside = [(key, place) for key, place in places if shared is None or not _is_below(place, shared)]
    refused = [f"{key} {place}" for key, place in outside if RESULTS.search(key)]
    if refused:
        raise ConfigError(
            f"The job would find no run or dataset of this machine: {', '.join(refused)}.",
            "On a cluster they lie on S3, or on a file system that every node mounts at the same path.",
            "Put them on S3 (storage=s3://bucket/runs), or name the mounted folder: --shared-folder /FOLDER.",
        )
    seen = ", ".join(sorted({place for _, place in places}))
    return f"Every node of the cluster must see {seen}" if places else None


def texts_of(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Every text of nested dicts and lists, with its key."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from texts_of(inner, f"{path}.{key}".lstrip("."))
    elif isinstance(value, list):
        for inner in value:
            yield from texts_of(inner, path)


def _is_below(place: str, folder: str) -> bool:
    return Path(os.path.normpath(place)).is_relative_to(os.path.normpath(folder))
