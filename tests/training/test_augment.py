"""Augmentations: each against torchvision's on the same parameters, and all of them by given numbers alone."""

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torchvision.transforms.v2 import functional as reference

from training import augment as ours
from training.augment import STREAMS, augment
from training.config import AugmentConfig
from training.order import keyed_numbers


def picture(height: int = 60, width: int = 80, seed: int = 0) -> np.ndarray:
    """Smooth colours with some edges, as photographs have them."""
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 10, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def as_tensor(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)


def difference(one: np.ndarray, other: torch.Tensor) -> float:
    return float((as_tensor(one).float() - other.float()).abs().max())


@pytest.mark.parametrize("factor", [0.0, 0.4, 1.0, 1.7])
@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (ours.brightened, reference.adjust_brightness),
        (ours.contrasted, reference.adjust_contrast),
        (ours.saturated, reference.adjust_saturation),
    ],
)
def test_brightness_contrast_and_saturation_are_torchvisions(change, expected, factor: float):
    # It cuts where we round; its greys are cut once more before they are blended.
    assert difference(change(picture(), factor), expected(as_tensor(picture()), factor)) <= 2


@pytest.mark.parametrize("shift", [-0.5, -0.1, 0.0, 0.03, 0.3])
def test_hues_are_torchvisions(shift: float):
    assert difference(ours.hue_shifted(picture(), shift), reference.adjust_hue(as_tensor(picture()), shift)) <= 2


def test_greyscale_is_torchvisions():
    config = AugmentConfig(crop_scale=(1, 1), greyscale_probability=1)
    grey = augment(picture(64, 64), 64, config, np.full(STREAMS, 0.5))
    assert difference(grey, reference.rgb_to_grayscale(as_tensor(picture(64, 64)), 3)) <= 1


@pytest.mark.parametrize("side", [20, 32, 50, 56, 62, 90])
def test_a_resized_crop_is_near_torchvisions_antialiased_bicubic(side: int):
    pixels = picture(64, 64)
    mine = augment(pixels, side, AugmentConfig(crop_scale=(1, 1)), np.full(STREAMS, 0.5))
    theirs = reference.resize(as_tensor(pixels), [side, side], reference.InterpolationMode.BICUBIC, antialias=True)
    # Grey levels of 255, on average and at the worst edge.
    assert float((as_tensor(mine).float() - theirs.float()).abs().mean()) <= 2.5
    assert difference(mine, theirs) <= 16


def test_a_flip_mirrors():
    config = AugmentConfig(crop_scale=(1, 1), flip_probability=1)
    assert np.array_equal(augment(picture(64, 64), 64, config, np.full(STREAMS, 0.5)), picture(64, 64)[:, ::-1])


@given(
    chances=st.lists(st.floats(0, 1, exclude_max=True), min_size=STREAMS, max_size=STREAMS),
    size=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    scale=st.tuples(st.floats(0.05, 1), st.floats(0.05, 1)),
    ratio=st.tuples(st.floats(0.3, 3), st.floats(0.3, 3)),
)
def test_any_numbers_give_a_square_of_any_picture(chances, size, scale, ratio):
    config = AugmentConfig(
        crop_scale=(min(scale), max(scale)),
        crop_ratio=(min(ratio), max(ratio)),
        flip_probability=0.5,
        color_jitter=(0.4, 0.4, 0.4, 0.1),
        greyscale_probability=0.5,
    )
    result = augment(picture(*size), 17, config, np.array(chances))
    assert result.shape == (17, 17, 3) and result.dtype == np.uint8
    assert np.array_equal(result, augment(picture(*size), 17, config, np.array(chances)))


def test_each_of_the_24_orders_of_colour_changes_occurs_once():
    orders = {tuple(ours._order(number)) for number in range(24)}
    assert len(orders) == 24 and all(sorted(order) == [0, 1, 2, 3] for order in orders)


def test_happenings_come_as_often_as_the_config_says():
    config = AugmentConfig(crop_scale=(1, 1), flip_probability=0.3, greyscale_probability=0.2)
    samples = np.arange(4000, dtype=np.int64)
    chances = keyed_numbers(3, np.zeros_like(samples), samples, STREAMS)
    pixels = picture(24, 24)
    results = [augment(pixels, 24, config, row) for row in chances]
    grey = np.mean([np.array_equal(result[:, :, 0], result[:, :, 1]) for result in results])
    left = pixels[:, :8].astype(float).mean()
    flipped = np.mean(
        [abs(result[:, -8:].astype(float).mean() - left) < 1 for result in results if np.ptp(result[0, 0]) > 0]
    )
    assert grey == pytest.approx(0.2, abs=0.02) and flipped == pytest.approx(0.3, abs=0.025)


@pytest.mark.parametrize(
    "values", [{"crop_scale": [0.9, 0.5]}, {"crop_scale": [0, 1]}, {"flip_probability": 1.5}, {"crop_ratio": [2, 1]}]
)
def test_impossible_settings_are_refused(values):
    with pytest.raises(ValidationError):
        AugmentConfig.model_validate(values)
