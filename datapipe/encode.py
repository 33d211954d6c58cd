"""Encodes pixels in the format that a dataset stores."""

import cv2
import simplejpeg

from datapipe.config import BuildConfig, EncodeFormat
from datapipe.planes import HalvedPlanes
from datapipe.resize import Pixels

MAX_SIDE = {EncodeFormat.JPG: 65_535, EncodeFormat.PNG: 2**31 - 1, EncodeFormat.WEBP: 16_383}


def encode_planes(planes: HalvedPlanes, config: BuildConfig) -> bytes:
    """The picture as a JPEG, as `encode` makes it of RGB."""
    width, height = planes.size
    light = planes.light[:height, :width]  # the encoder takes the size from it, and what it repeats from behind it
    encoded: bytes = simplejpeg.encode_jpeg_yuv_planes(light, planes.blue, planes.red, config.encode_quality)
    return encoded


def encode(pixels: Pixels, config: BuildConfig) -> bytes:
    """The encoded picture. Raises ValueError for one that is too long for its format."""
    if max(pixels.shape[:2]) > MAX_SIDE[config.encode_format]:
        raise ValueError(f"a side above {MAX_SIDE[config.encode_format]} pixels")
    if config.encode_format is EncodeFormat.JPG:
        encoded: bytes = simplejpeg.encode_jpeg(pixels, config.encode_quality, "RGB", "420")
        return encoded
    option = cv2.IMWRITE_PNG_COMPRESSION if config.encode_format is EncodeFormat.PNG else cv2.IMWRITE_WEBP_QUALITY
    bgr = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    done, data = cv2.imencode(f".{config.encode_format}", bgr, (int(option), config.encode_quality))
    if not done:
        raise ValueError(f"OpenCV wrote no {config.encode_format}")
    return data.tobytes()
