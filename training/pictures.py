"""Decodes stored pictures and cuts the model's square out of them."""

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg

from datapipe.pixel_limit import is_within_pixel_limit
from training.config import SquareMode

JPEG_START = b"\xff\xd8"
EXIF_MARK = b"Exif\x00"  # may turn the picture, which OpenCV knows how to do
HEADER_BYTES = 1 << 16
# Measured against torchvision's antialiased bicubic: up to here OpenCV's cubic is nearer (0.8 grey levels on average at
# 256 to 224 pixels, area averaging 1.1) in a third of the time; further down it aliases.
MAX_CUBIC_REDUCTION = 1.2

Pixels = npt.NDArray[np.uint8]  # (height, width, 3) RGB


def decode_picture(data: bytes) -> Pixels | None:
    """The picture as RGB, or None when its bytes can't be decoded, or only into more pixels than a dataset has."""
    if not is_within_pixel_limit(data):
        return None
    if data.startswith(JPEG_START) and EXIF_MARK not in data[:HEADER_BYTES]:
        try:
            return np.asarray(simplejpeg.decode_jpeg(data), dtype=np.uint8)
        except ValueError:
            pass  # cut, or of a kind that it does not know: OpenCV takes what there is
    try:
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error:
        return None
    return None if decoded is None else np.asarray(decoded, dtype=np.uint8)


def center_square(picture: Pixels, side: int) -> Pixels:
    """The largest square in the middle of the picture, resized to `side` pixels."""
    height, width = picture.shape[:2]
    edge = min(height, width)
    left, top = (width - edge) // 2, (height - edge) // 2
    return resized(picture[top : top + edge, left : left + edge], side)


def model_square(picture: Pixels, side: int, mode: SquareMode) -> Pixels:
    """The square that a model is evaluated on: the picture's middle, or all of it."""
    return resized(picture, side) if mode is SquareMode.SQUASH else center_square(picture, side)


def fill_planes(planes: Pixels, picture: Pixels) -> None:
    """Writes a picture (side, side, 3) as (3, side, side)."""
    cv2.split(picture, mv=list(planes))


def resized(crop: Pixels, side: int) -> Pixels:
    """A crop as a square of `side` pixels."""
    height, width = crop.shape[:2]
    if height == side and width == side:
        return crop
    shrinks = max(height, width) > MAX_CUBIC_REDUCTION * side
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(crop, (side, side), interpolation=interpolation), dtype=np.uint8)
