"""Pictures for the tests' web: made from a number, each unlike the others."""

import io

import numpy as np
from PIL import Image

KINDS = ("JPEG", "PNG", "WEBP")


def picture(number: int, width: int = 90, height: int = 70) -> bytes:
    """A smooth coloured picture, encoded as JPEG, PNG or WebP by turns."""
    random = np.random.default_rng(number)
    small = Image.fromarray(random.integers(0, 256, (4, 4, 3), np.uint8))
    stream = io.BytesIO()
    small.resize((width + number % 40, height + number % 30), Image.Resampling.BICUBIC).save(stream, KINDS[number % 3])
    return stream.getvalue()
