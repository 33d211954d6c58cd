"""The perceptual hash of a picture: alike for copies that were scaled, compressed or recoloured a little."""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from datapipe.curate_config import PHASH
from datapipe.dataset import ShardReader
from datapipe.pixel_limit import is_within_pixel_limit

SIDE = 32  # the picture is shrunk to this square
KEPT = 8  # frequencies of each axis
# Of 255 grey levels; with less in all frequencies it is the noise of the encoding that is hashed.
MIN_STRENGTH = 1.0


class PerceptualHash:
    """64 bits of each picture's structure, as uint64; null for pictures without any, and for broken ones.

    Grey, shrunk to 32×32, its 8×8 lowest frequencies (DCT) compared with their median; the mean brightness is left
    out. Source: C. Zauner, Implementation and Benchmarking of Perceptual Image Hash Functions, 2010, section 3.2.1.
    """

    @property
    def settings(self) -> dict[str, Any]:
        """What the values depend on."""
        return {"kind": PHASH, "version": 1}

    @property
    def columns(self) -> Sequence[str]:
        """None but the pictures."""
        return ()

    @property
    def type(self) -> pa.DataType:
        """64 bits."""
        return pa.uint64()

    def values(self, shard: ShardReader) -> pa.Array:
        """The hash of each picture."""
        return pa.array([perceptual_hash(image) for image in shard.images()], self.type)


def perceptual_hash(data: bytes) -> int | None:
    """The hash of an encoded picture; None for one that can't be decoded or has no structure."""
    if not is_within_pixel_limit(data):
        return None
    try:
        grey = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
    except cv2.error:
        return None
    if grey is None:
        return None
    small = cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    frequencies: npt.NDArray[np.float32] = np.asarray(cv2.dct(small))[:KEPT, :KEPT].ravel()[1:]
    if np.abs(frequencies).max() < MIN_STRENGTH * SIDE / 2:
        return None
    # Without the mean there are 63: the first bit is always 0.
    bits = np.concatenate([[False], frequencies > np.median(frequencies)])
    return int.from_bytes(np.packbits(bits).tobytes(), "big")
