"""Classification by the nearest class prompt."""

import math
from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from infra.errors import ConfigError
from training.config import ZeroShotConfig
from training.encode import FeatureEncoder
from training.records import Score
from training.selection import Selection, columns_of


def score_zero_shot(config: ZeroShotConfig, selection: Selection, encoder: FeatureEncoder) -> list[Score]:
    """The share of pictures whose nearest class is theirs, the mean over classes, and each class's own.

    selection: samples that have a label, see `only_labelled`. Chance is one of the classes. Raises ConfigError for
    labels without a class.
    """
    labels = [str(label) for label in _labels(config, selection)]
    classes = _classes(config, labels)
    weights = class_features(list(classes.values()), config.templates, encoder)  # (classes, D)
    nearest = (encoder.encode_pictures(selection) @ weights.T).argmax(dim=1).tolist()
    names = list(classes)
    hits = Counter(label for label, place in zip(labels, nearest, strict=True) if names[place] == label)
    counts = Counter(labels)
    shares = {label: hits[label] / counts[label] for label in names if counts[label]}
    chance = 1 / len(classes)
    return [
        Score("zero_shot_accuracy", sum(hits.values()) / len(labels), chance, len(labels)),
        Score("zero_shot_mean_per_class", sum(shares.values()) / len(shares), chance, len(labels)),
        *(Score(f"zero_shot: {label}", share, chance, counts[label]) for label, share in shares.items()),
    ]


def only_labelled(config: ZeroShotConfig, selection: Selection, say: Callable[[str], None]) -> Selection:
    """The samples that have a label; how many have none is said. Raises ConfigError when none has one."""
    is_labelled = np.asarray([_is_label(value) for value in _labels(config, selection)], dtype=bool)
    found = selection.where(is_labelled)
    if not len(found):
        raise ConfigError(
            f"evaluate.zero_shot: none of {len(selection):,} samples has a label in the column {config.label_col}.",
            "Pictures are compared with the classes of their labels.",
            "Name another column, or other samples.",
        )
    if len(found) < len(selection):
        missing = len(selection) - len(found)
        say(f"zero_shot leaves out {missing:,} of {len(selection):,} samples, whose {config.label_col} is empty")
    return found


def _labels(config: ZeroShotConfig, selection: Selection) -> Iterator[object]:
    return (values[0] for _, _, values in columns_of(selection, [config.label_col]))


def _is_label(value: object) -> bool:
    """Whether a class can be meant: an empty field of a CSV list comes as "", one of a Parquet list as None or NaN."""
    is_nan = isinstance(value, float) and math.isnan(value)
    return value is not None and not is_nan and str(value).strip() != ""


def class_features(names: list[str], templates: list[str], encoder: FeatureEncoder) -> Tensor:
    """One unit feature a class: its prompts' features, averaged. (classes, D)"""
    prompts = [template.replace("{}", name) for name in names for template in templates]
    features = encoder.encode_texts(prompts).view(len(names), len(templates), -1)
    return F.normalize(features.mean(dim=1), dim=-1)


def _classes(config: ZeroShotConfig, labels: list[str]) -> dict[str, str]:
    """Label → name in the prompt, in a fixed order."""
    if config.classes is None:
        return {label: label for label in sorted(set(labels))}
    classes = config.classes if isinstance(config.classes, dict) else {label: label for label in config.classes}
    unknown = sorted(set(labels) - classes.keys())
    if unknown:
        raise ConfigError(
            f"evaluate.zero_shot: the column {config.label_col} has {unknown[0]!r}, which is no class.",
            f"The classes are {', '.join(classes)}.",
            "Add it to evaluate.zero_shot.classes, or leave those samples out with data.where.",
        )
    return classes
