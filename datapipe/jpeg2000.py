"""Decodes JPEG 2000 pictures of more than 8 bits, which Pillow gets wrong: it rounds the brightest values to 0."""

import cv2
import numpy as np

from datapipe.resize import Pixels

START = b"\xff\x4f\xff\x51"  # SOC and SIZ, ITU-T T.800, A.4.1 and A.5.1
DEPTH_OFFSET = 42  # of Ssiz of the first component: its bits less one, and a sign
WHITE = 255.0


def is_deep(body: bytes) -> bool:
    """Whether a component has more than 8 bits."""
    return _depth(body) > 8


def decode_deep(body: bytes) -> Pixels:
    """The picture in RGB of 8 bits, on white where it is transparent. Raises ValueError or cv2.error."""
    values = cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None or values.dtype != np.uint16:
        raise ValueError("OpenCV cannot decode the picture")
    scaled = (values >> (_depth(body) - 8)).clip(0, 255).astype(np.uint8)
    if scaled.ndim == 2:
        return np.asarray(cv2.cvtColor(scaled, cv2.COLOR_GRAY2RGB), dtype=np.uint8)
    if scaled.shape[2] == 3:
        return np.asarray(cv2.cvtColor(scaled, cv2.COLOR_BGR2RGB), dtype=np.uint8)
    share = scaled[..., 3:].astype(np.float32) / 255
    return np.asarray(np.rint(scaled[..., 2::-1] * share + WHITE * (1 - share)), dtype=np.uint8)


def _depth(body: bytes) -> int:
    place = body.find(START)
    return (body[place + DEPTH_OFFSET] & 0x7F) + 1 if 0 <= place < len(body) - DEPTH_OFFSET else 8
