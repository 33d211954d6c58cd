"""The model that CLIP scores are computed with: its weights, told apart by their content, and how it is loaded."""

import contextlib
import hashlib
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from infra.errors import ConfigError
from infra.files import FileEntry
from infra.storage import Storage, sha256_in, sha256_of_file
from training.annotate_config import ClipScoreConfig
from training.checkpoint import MARKER_FILE, read_state
from training.config import TrainConfig

if TYPE_CHECKING:
    from torch import nn

    from training.model import ModelTraits

OWN_KEYS = re.compile(r"(?<![\w/.])train\.(model|pretrained|allow_activation_mismatch)\b")


def model_name(config: ClipScoreConfig) -> str:
    """The model that scores. Raises ConfigError when config and weights do not name it, or name different ones."""
    own = read_state(Storage(config.pretrained)).model if is_checkpoint(config.pretrained) else None
    name = config.model or own
    if name is None:
        raise ConfigError(
            "train.model is missing.",
            f"Only a checkpoint of ours names its own model; {config.pretrained} is none.",
            "Write for example model: ViT-B-32.",
        )
    if own is not None and name != own:
        raise ConfigError(
            f"train.model: got {name}; {config.pretrained} is a checkpoint of {own}.",
            "A checkpoint has the model that it was trained with.",
            "Leave the model out.",
        )
    return name


def is_checkpoint(pretrained: str) -> bool:
    """Whether it is the folder of a checkpoint of ours."""
    return "/" in pretrained and Storage(pretrained).exists(MARKER_FILE)


def weights_identity(pretrained: str) -> str:
    """Tells weights apart by their content: a checkpoint's marker, a file's hash (in S3 its ETag), an open_clip tag."""
    if "/" not in pretrained:
        return pretrained
    if is_checkpoint(pretrained):
        return hashlib.sha256(Storage(pretrained).read_bytes(MARKER_FILE)).hexdigest()
    place, _, file = pretrained.rpartition("/")
    storage = Storage(place)
    entry = storage.info(file)
    entries = [entry] if entry is not None else Storage(pretrained).list_files()
    if not entries:
        raise ConfigError(
            f"train.pretrained: {pretrained} is not there, or holds no weights.",
            "Allowed are a file, a checkpoint of ours, a Hugging Face folder, or an open_clip tag.",
            "Check the path.",
        )
    folder = storage if entry is not None else Storage(pretrained)
    return hashlib.sha256(repr([_identity(folder, each) for each in entries]).encode()).hexdigest()


def _identity(folder: Storage, entry: FileEntry) -> str:
    """A hash of the file, or on object stores the version that they have of it."""
    if folder.is_local:
        path = folder.local_path(entry.path)
        return _hash_of(path, path.stat().st_mtime_ns)
    return entry.version or sha256_in(folder, entry.path)


@lru_cache(maxsize=64)
def _hash_of(path: Path, _modified_ns: int) -> str:
    return sha256_of_file(path)


@contextlib.contextmanager
def told_as(key: str) -> Iterator[None]:
    """Errors about a training's model and weights, told under the key that named them here."""
    try:
        yield
    except ConfigError as error:
        parts = (error.found, error.allowed, error.fix)
        raise ConfigError(*(OWN_KEYS.sub(rf"{key}.\1", part) for part in parts)) from error


def as_training(config: ClipScoreConfig) -> TrainConfig:
    """The config of a training that would begin with the model and its weights."""
    return TrainConfig(
        data="none",
        model=model_name(config),
        pretrained=config.pretrained,
        allow_activation_mismatch=config.allow_activation_mismatch,
        steps=1,
    )


def load_scoring_model(config: ClipScoreConfig) -> "tuple[nn.Module, ModelTraits]":
    """The model in evaluation mode, and what it wants to be fed. Raises ConfigError, CorruptData."""
    from training.model import model_to_train, traits_of
    from training.picture_constants import settle_pictures
    from training.trained_model import load_model

    if is_checkpoint(config.pretrained):
        trained = load_model(Storage(config.pretrained), use_average=True)
        return trained.module, trained.traits
    training = settle_pictures(as_training(config))
    return model_to_train(training).eval(), traits_of(training)
