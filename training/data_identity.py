"""Tells whether a training or an evaluation still sees the data that it began with."""

import hashlib
from collections.abc import Iterable

from datapipe.dataset import MANIFEST_FILE
from datapipe.view_file import view_path
from infra.errors import ConfigError
from infra.storage import storage_of
from training.config import DataSource


def data_identity(sources: Iterable[DataSource]) -> str | None:
    """A hash of the sources' datasets, by their manifests, and of their views; None while one is not there."""
    digest = hashlib.sha256()
    for source in sources:
        storage = storage_of(source.path)
        for file in [MANIFEST_FILE] if source.view is None else [MANIFEST_FILE, view_path(source.view)]:
            try:
                digest.update(storage.read_bytes(file))
            except FileNotFoundError:
                return None
    return digest.hexdigest()


def require_same_data(sources: Iterable[DataSource], identity: str | None) -> None:
    """Raises ConfigError when the sources are not what they were when `identity` was taken."""
    if data_identity(sources) != identity:
        raise ConfigError(
            "A dataset of the training, or its view, was changed while the training went on.",
            "A training sees the same data to its end.",
            "Restore what it began with and run the same command again: it goes on; or train under another name.",
        )
