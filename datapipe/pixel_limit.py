"""Tells from a picture's header whether it decodes into more pixels than a dataset has, for every format alike."""

import simplejpeg
from PIL import Image

from datapipe.config import MAX_IMAGE_PIXELS
from datapipe.decode import DECODER_ERRORS, open_image
from datapipe.jpeg import JPEG_MAGIC


def is_within_pixel_limit(data: bytes) -> bool:
    """Whether the picture may be decoded: a dataset of another tool may hold anything.

    False for a size that no reader finds, which OpenCV would decode up to a thousand million pixels of.
    """
    if data.startswith(JPEG_MAGIC):
        try:
            height, width, *_ = simplejpeg.decode_jpeg_header(data)
            return bool(height * width <= MAX_IMAGE_PIXELS)
        except ValueError:
            pass  # cut, or of a kind that it does not know
    try:
        width, height = open_image(data, MAX_IMAGE_PIXELS).size
    except (Image.DecompressionBombError, *DECODER_ERRORS):
        return False
    return width * height <= MAX_IMAGE_PIXELS
