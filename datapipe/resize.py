"""Brings a picture to the wanted size; the modes are img2dataset's."""

from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt

from datapipe.config import BuildConfig, ResizeMode

Pixels = npt.NDArray[np.uint8]  # (height, width, 3)
WHITE = (255, 255, 255)


def needs_resize(width: int, height: int, config: BuildConfig) -> bool:
    """Whether the mode changes a picture of this size."""
    if config.resize_mode is ResizeMode.NO:
        return False
    return not config.resize_only_if_bigger or _measured_side(width, height, config) > config.image_size


def scaled_size(width: int, height: int, config: BuildConfig) -> tuple[int, int]:
    """The width and height that a picture of this size is scaled to, before it is cropped or padded."""
    scale = config.image_size / _measured_side(width, height, config)
    return max(1, round(width * scale)), max(1, round(height * scale))


def resize(pixels: Pixels, size: tuple[int, int], config: BuildConfig) -> Pixels:
    """The picture scaled to `size` (width, height), and in the mode's shape; only for those that `needs_resize`."""
    # Area averaging is free of aliasing when a picture shrinks; it does not interpolate when it grows.
    interpolation = cv2.INTER_AREA if size[0] < pixels.shape[1] else cv2.INTER_CUBIC
    scaled = cv2.resize(pixels, size, interpolation=interpolation)
    return _SHAPES.get(config.resize_mode, _as_it_is)(np.asarray(scaled, dtype=np.uint8), config.image_size)


def _measured_side(width: int, height: int, config: BuildConfig) -> int:
    """The side that `image_size` means."""
    largest = config.resize_mode in (ResizeMode.BORDER, ResizeMode.KEEP_RATIO_LARGEST)
    return max(width, height) if largest else min(width, height)


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
