"""Settles what a training's pictures are normalised with, so that whoever uses its weights later does the same."""

import logging

from infra.storage import Storage
from training.checkpoint import newest_checkpoint, read_state
from training.config import PretrainedTowers, TrainConfig
from training.model import model_traits
from training.weight_facts import WeightFacts, facts_of_weights

log = logging.getLogger(__name__)


def settle_pictures(config: TrainConfig, run: Storage | None = None) -> TrainConfig:
    """The config with `mean` and `std` in it, which its checkpoints keep.

    What the config leaves open is that of the run's newest checkpoint, or of the weights that it starts from, or of the
    model, in this order: a resumed training needs neither the weights nor the network. Raises ConfigError as
    `facts_of_weights` does.
    """
    if config.mean is not None and config.std is not None and config.pretrained is None:
        return config
    found = _of_checkpoint(run) or _of_weights(config)
    _tell_of_others(config, found)
    own = model_traits(config.model)
    mean, std = config.mean or found.mean or own.mean, config.std or found.std or own.std
    return config.model_copy(update={"mean": mean, "std": std})


def _of_checkpoint(run: Storage | None) -> WeightFacts | None:
    path = None if run is None else newest_checkpoint(run)
    if run is None or path is None:
        return None
    settings = read_state(run.at(path)).settings
    if "mean" not in settings or "std" not in settings:
        return None
    return WeightFacts(None, tuple(settings["mean"]), tuple(settings["std"]))


def _of_weights(config: TrainConfig) -> WeightFacts:
    """None of a text tower's: pictures are the image tower's."""
    if config.pretrained is None or config.pretrained_towers is PretrainedTowers.TEXT:
        return WeightFacts()
    return facts_of_weights(config.pretrained, config.model)


def _tell_of_others(config: TrainConfig, found: WeightFacts) -> None:
    for name in ("mean", "std"):
        ours, theirs = getattr(config, name), getattr(found, name)
        if ours is not None and theirs is not None and ours != theirs:
            log.warning(f"train.{name}: {ours} is used; the weights were made with {theirs}")
