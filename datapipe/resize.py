"""Brings a picture to the wanted size; the modes are img2dataset's."""

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from datapipe.config import BuildConfig, ResizeMode

Pixels = npt.NDArray[np.uint8]  # (height, width, 3)
Size = tuple[int, int]  # width, height
WHITE = (255, 255, 255)
# A picture that shrinks by a factor s < MAX_CUBIC_SHRINK is smoothed by [a, 1-2a, a] in both directions with
# a = SMOOTHING + SMOOTHING_SLOPE·(s-1), then interpolated with cubics. Fitted on photographs to lie, at every s, within
# half a decibel of exact antialiased filters, and near to averaging over areas, at a third of its time (docs/log.md).
SMOOTHING = 0.08
SMOOTHING_SLOPE = 0.16
SMOOTHED_BY_REDUCTION = 0.055  # what the decoder's own averaging has done of it
MIN_SHRINK_AFTER_REDUCTION = 1.15  # with less, the decoder's blocks would show
MIN_REDUCED_PIXELS = 300_000  # below, there is nothing to gain
MAX_CUBIC_SHRINK = 2.3  # what is left after the decoder's reduction, where it has one
REDUCTIONS = (8, 4, 2)


def needs_resize(width: int, height: int, config: BuildConfig) -> bool:
    """Whether the mode changes a picture of this size."""
    if config.resize_mode is ResizeMode.NO:
        return False
    return not config.resize_only_if_bigger or _measured_side(width, height, config) > config.image_size


def scaled_size(width: int, height: int, config: BuildConfig) -> Size:
    """The width and height that a picture of this size is scaled to, before it is cropped or padded."""
    scale = config.image_size / _measured_side(width, height, config)
    return max(1, round(width * scale)), max(1, round(height * scale))


def reduction_for(original: Size, size: Size) -> int:
    """The power of two by which a decoder may shrink a picture of the original size that will get `size`."""
    if original[0] * original[1] < MIN_REDUCED_PIXELS:
        return 1
    for reduction in REDUCTIONS:
        rest = min(side / wanted for side, wanted in zip(original, size, strict=True)) / reduction
        if rest >= MIN_SHRINK_AFTER_REDUCTION:
            return reduction
    return 1


def resize(pixels: Pixels, original: Size, size: Size, config: BuildConfig, *, reduction: int = 1) -> Pixels:
    """The picture scaled to `size`, and in the mode's shape; only for those that `needs_resize`.

    `reduction` says by how much the decoder has averaged the picture of the `original` size already; where that does
    not divide a side, the last line of pixels is only a part of one.
    """
    extent = (original[0] / reduction, original[1] / reduction)
    scaled = _scale(pixels, extent, size, reduction)
    return _SHAPES.get(config.resize_mode, _as_it_is)(scaled, config.image_size)


def is_cubic(shrink: tuple[float, float]) -> bool:
    """Whether a picture that shrinks so, across and down, is smoothed and then interpolated with cubics."""
    return max(shrink) > 1 and min(shrink) >= 1 and max(shrink) < MAX_CUBIC_SHRINK


def smooth(pixels: npt.NDArray[np.uint8], shrink: tuple[float, float], done: float = 0.0) -> npt.NDArray[np.uint8]:
    """The pixels (of any channels) as smooth as they have to be before they shrink; some of it may be `done`."""
    across, down = (_kernel(factor, done) for factor in shrink)
    return np.asarray(cv2.sepFilter2D(pixels, -1, across, down, borderType=cv2.BORDER_REPLICATE), dtype=np.uint8)


def _measured_side(width: int, height: int, config: BuildConfig) -> int:
    """The side that `image_size` means."""
    largest = config.resize_mode in (ResizeMode.BORDER, ResizeMode.KEEP_RATIO_LARGEST)
    return max(width, height) if largest else min(width, height)


def _scale(pixels: Pixels, extent: tuple[float, float], size: Size, reduction: int) -> npt.NDArray[Any]:
    across, down = extent[0] / size[0], extent[1] / size[1]
    if max(across, down) <= 1:
        return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_LANCZOS4))
    if not is_cubic((across, down)):
        return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA))
    smoothed = smooth(pixels, (across, down), SMOOTHED_BY_REDUCTION if reduction > 1 else 0.0)
    if extent == (pixels.shape[1], pixels.shape[0]):
        return np.asarray(cv2.resize(smoothed, size, interpolation=cv2.INTER_CUBIC))
    # cv2.resize would stretch the part of a pixel to a whole one, which shifts what lies before it.
    places = np.array([[across, 0, (across - 1) / 2], [0, down, (down - 1) / 2]])
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(smoothed, places, size, flags=flags, borderMode=cv2.BORDER_REPLICATE))


def _kernel(shrink: float, done: float) -> npt.NDArray[np.float32]:
    share = max(0.0, SMOOTHING - done + SMOOTHING_SLOPE * (shrink - 1))
    return np.array([share, 1 - 2 * share, share], dtype=np.float32)


def _as_it_is(pixels: Pixels, _size: int) -> Pixels:
    return pixels


def _center_crop(pixels: Pixels, size: int) -> Pixels:
    top, left = (pixels.shape[0] - size) // 2, (pixels.shape[1] - size) // 2
    return pixels[top : top + size, left : left + size]


def _pad_white(pixels: Pixels, size: int) -> Pixels:
    above, left = (size - pixels.shape[0]) // 2, (size - pixels.shape[1]) // 2
    below, right = size - pixels.shape[0] - above, size - pixels.shape[1] - left
    padded = cv2.copyMakeBorder(pixels, above, below, left, right, cv2.BORDER_CONSTANT, value=WHITE)
    return np.asarray(padded, dtype=np.uint8)


_SHAPES: dict[ResizeMode, Callable[[Pixels, int], Pixels]] = {
    ResizeMode.CENTER_CROP: _center_crop,
    ResizeMode.BORDER: _pad_white,
}
