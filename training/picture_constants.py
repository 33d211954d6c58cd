"""Settles what a training's pictures are normalised with, so that whoever uses its weights later does the same."""

import logging

from infra.storage import Storage
from training.checkpoint import newest_checkpoint, read_state
from training.config import PretrainedTowers, TrainConfig
from training.model import model_traits
from training.weight_facts import WeightFacts, facts_of_weights, square_mode

log = logging.getLogger(__name__)


def settle_pictures(config: TrainConfig, run: Storage | None = None) -> TrainConfig:
    """The config with `mean`, `std` and `resize_mode` in it, which its checkpoints keep.

    What the config leaves open is that of the run's newest checkpoint, or of the weights that it starts from, or of the
    model, in this order: a resumed training needs neither the weights nor the network. Raises ConfigError as
    `facts_of_weights` does.
    """
    has_all = None not in (config.mean, config.std, config.resize_mode)
    if has_all and config.pretrained is None:
        return config
    found = _of_checkpoint(run) or _of_weights(config)
    _tell_of_others(config, found)
    own = model_traits(config.model)
    mean, std = config.mean or found.mean or own.mean, config.std or found.std or own.std
    mode = config.resize_mode or found.resize_mode or own.resize_mode
    return config.model_copy(update={"mean": mean, "std": std, "resize_mode": mode})


def _of_checkpoint(run: Storage | None) -> WeightFacts | None:
    path = None if run is None else newest_checkpoint(run)
    if run is None or path is None:
        return None
    settings = read_state(run.at(path)).settings
    if "mean" not in settings or "std" not in settings:
        return None
    return WeightFacts(None, tuple(settings["mean"]), tuple(settings["std"]), square_mode(settings))


def _of_weights(config: TrainConfig) -> WeightFacts:
    """None of a text tower's: pictures are the image tower's."""
    if config.pretrained is None or config.pretrained_towers is PretrainedTowers.TEXT:
        return WeightFacts()
    return facts_of_weights(config.pretrained, config.model)


def _tell_of_others(config: TrainConfig, found: WeightFacts) -> None:
    for name in ("mean", "std", "resize_mode"):
        ours, theirs = getattr(config, name), getattr(found, name)
        if ours is not None and theirs is not None and ours != theirs:
            log.warning(f"train.{name}: {ours} is used; the weights were made with {theirs}")
