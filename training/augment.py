"""Augments a picture by numbers that are given: crop, flip, colour jitter, greyscale.

The same numbers give the same picture, on any worker and after any resume.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from training.config import AugmentConfig
from training.pictures import Pixels, resized

STREAMS = 12  # numbers of one augmentation: see _Chances
# Of a grey value from R, G and B: ITU-R BT.601, as torchvision and Pillow have it.
GREY_WEIGHTS = np.array([0.299, 0.587, 0.114], dtype=np.float32)
JITTERS = 4


@dataclass(frozen=True, slots=True)
class _Chances:
    """Uniform numbers in [0, 1), each for one decision."""

    size: float
    left: float
    top: float
    ratio: float
    flip: float
    jitter: float
    brightness: float
    contrast: float
    saturation: float
    hue: float
    order: float
    greyscale: float


def augment(picture: Pixels, side: int, config: AugmentConfig, chances: npt.NDArray[np.float64]) -> Pixels:
    """A square of `side` pixels, cut, mirrored and recoloured as the config allows. chances: (STREAMS,) in [0, 1).

    Source: torchvision's RandomResizedCrop, RandomHorizontalFlip, ColorJitter and Grayscale, which open_clip trains
    with; the crop differs in that its share is of the largest crop that fits, so that long pictures are cut anywhere.
    """
    drawn = _Chances(*(float(chance) for chance in chances))
    result = _crop(picture, side, config, drawn)
    if drawn.flip < config.flip_probability:
        result = np.ascontiguousarray(result[:, ::-1])
    if config.color_jitter is not None and drawn.jitter < config.color_jitter_probability:
        result = _jittered(result, config.color_jitter, drawn)
    if drawn.greyscale < config.greyscale_probability:
        result = np.repeat(_grey(result)[:, :, None], 3, axis=2)
    return result


def _crop(picture: Pixels, side: int, config: AugmentConfig, drawn: _Chances) -> Pixels:
    height, width = picture.shape[:2]
    low, high = (float(np.log(ratio)) for ratio in config.crop_ratio)
    ratio = float(np.exp(low + (high - low) * drawn.ratio))  # width to height
    share = config.crop_scale[0] + (config.crop_scale[1] - config.crop_scale[0]) * drawn.size
    largest = min(width, height * ratio)
    crop_width = _within(largest * share**0.5, width)
    crop_height = _within(largest / ratio * share**0.5, height)
    left = int(drawn.left * (width - crop_width + 1))
    top = int(drawn.top * (height - crop_height + 1))
    return resized(picture[top : top + crop_height, left : left + crop_width], side)


def _within(length: float, limit: int) -> int:
    return max(1, min(limit, round(length)))


def _jittered(picture: Pixels, jitter: tuple[float, float, float, float], drawn: _Chances) -> Pixels:
    """Brightness, contrast, saturation and hue, in one of their 24 orders."""
    factors = [
        _factor(strength, chance)
        for strength, chance in zip(jitter[:3], (drawn.brightness, drawn.contrast, drawn.saturation), strict=True)
    ]
    for change in _order(int(drawn.order * 24)):
        if change < JITTERS - 1:
            picture = (brightened, contrasted, saturated)[change](picture, factors[change])
        else:
            picture = hue_shifted(picture, jitter[3] * (2 * drawn.hue - 1))
    return picture


def brightened(picture: Pixels, factor: float) -> Pixels:
    """Blended with black."""
    return _blend(picture, np.zeros(1, np.float32), factor)


def contrasted(picture: Pixels, factor: float) -> Pixels:
    """Blended with its mean grey."""
    return _blend(picture, np.full(1, _grey(picture).mean(), np.float32), factor)


def saturated(picture: Pixels, factor: float) -> Pixels:
    """Blended with its grey values."""
    return _blend(picture, _grey(picture)[:, :, None].astype(np.float32), factor)


def hue_shifted(picture: Pixels, shift: float) -> Pixels:
    """Every hue turned by `shift` of a whole turn, −0.5 to 0.5."""
    hsv = cv2.cvtColor(picture.astype(np.float32) / 255, cv2.COLOR_RGB2HSV)
    hsv[:, :, 0] = (hsv[:, :, 0] + 360 * shift) % 360
    return _rounded(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB) * 255)


def _factor(strength: float, chance: float) -> float:
    """1 at random by up to the strength more or less, never negative."""
    low = max(0.0, 1 - strength)
    return low + (1 + strength - low) * chance


def _order(number: int) -> list[int]:
    """One of the 24 orders of four things."""
    left, order = list(range(JITTERS)), []
    for size in range(JITTERS, 0, -1):
        number, place = divmod(number, size)
        order.append(left.pop(place))
    return order


def _grey(picture: Pixels) -> Pixels:
    return _rounded(picture.astype(np.float32) @ GREY_WEIGHTS)


def _blend(picture: Pixels, other: npt.NDArray[np.float32], factor: float) -> Pixels:
    return _rounded(np.float32(factor) * picture + np.float32(1 - factor) * other)


def _rounded(values: npt.NDArray[np.float32]) -> Pixels:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
