"""A decoder that kills its process on a marked picture, as a fault in native code does."""

import ctypes

from datapipe.addresses import Refusal
from datapipe.config import BuildConfig
from datapipe.image import StoredImage, process_image

MARK = b"this picture kills its decoder"


def process_or_die(body: bytes, config: BuildConfig) -> StoredImage | Refusal:
    if MARK in body:
        # A fault of this very thread: one sent by kill may stop another, and this one goes on meanwhile.
        ctypes.string_at(0)
    return process_image(body, config)
