"""Decodes stored pictures and cuts the model's square out of them."""

import cv2
import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]  # (height, width, 3) RGB


def decode_picture(data: bytes) -> Pixels | None:
    """The picture as RGB, or None when its bytes can't be decoded."""
    encoded = np.frombuffer(data, np.uint8)
    if not len(encoded):
        return None
    try:
        decoded = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
    except cv2.error:
        return None
    return None if decoded is None else np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def random_square(picture: Pixels, side: int, scale: tuple[float, float], chances: npt.NDArray[np.float64]) -> Pixels:
    """A square of `side` pixels, cut at random and resized.

    The cut's area is between `scale` shares of the largest square in the picture, its place anywhere in it.
    chances: (3,) uniform numbers in [0, 1) for size, left and top.
    """
    height, width = picture.shape[:2]
    share = scale[0] + (scale[1] - scale[0]) * chances[0]
    edge = max(1, min(height, width, round(min(height, width) * float(share) ** 0.5)))
    left, top = int(chances[1] * (width - edge + 1)), int(chances[2] * (height - edge + 1))
    return _resized(picture[top : top + edge, left : left + edge], side)


def center_square(picture: Pixels, side: int) -> Pixels:
    """The largest square in the middle of the picture, resized to `side` pixels."""
    height, width = picture.shape[:2]
    edge = min(height, width)
    left, top = (width - edge) // 2, (height - edge) // 2
    return _resized(picture[top : top + edge, left : left + edge], side)


def _resized(square: Pixels, side: int) -> Pixels:
    if square.shape[0] == side:
        return square
    # Area averaging is free of aliasing when a picture shrinks; cubic is the field's choice when it grows.
    interpolation = cv2.INTER_AREA if square.shape[0] > side else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(square, (side, side), interpolation=interpolation), dtype=np.uint8)
