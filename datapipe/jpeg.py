"""Reads a JPEG's segments, and decodes the plain ones at the size that is needed."""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import simplejpeg

from datapipe.planes import StoredPlanes
from datapipe.resize import Pixels, Size
from datapipe.turbojpeg import decode_planes

JPEG_MAGIC = b"\xff\xd8\xff"
PROGRESSIVE = 0xC2
FRAMES = frozenset({0xC0, 0xC1, PROGRESSIVE})  # baseline, extended and progressive: what every encoder writes
OTHER_FRAMES = frozenset({0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF})
WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD8)})
START_OF_SCAN, END_OF_IMAGE, APP1, APP2 = 0xDA, 0xD9, 0xE1, 0xE2
SCAN = b"\xff\xda"
EXIF, ICC = b"Exif\x00\x00", b"ICC_PROFILE\x00"
# Each scan goes over the whole picture again, so that a small file with thousands of them takes hours.
# Encoders write about ten. Source: https://libjpeg-turbo.org/pmwiki/uploads/About/TwoIssueswiththeJPEGStandard.pdf
MAX_SCANS = 100
Decoded = TypeVar("Decoded")


class JpegCutError(Exception):
    """A JPEG has fewer lines than its header says."""


@dataclass(frozen=True, slots=True)
class JpegHeader:
    """What a JPEG's segments say: its stored size, its EXIF block (empty when there is none), its scans."""

    width: int
    height: int
    components: int
    exif: bytes
    has_icc: bool
    scans: int


def read_jpeg_header(body: bytes) -> JpegHeader | None:
    """The header of a JPEG of 8 bits in one or three components; None for all else, also when it is damaged."""
    if not body.startswith(JPEG_MAGIC):
        return None
    try:
        return _read_segments(body)
    except (IndexError, struct.error):
        return None


def count_scans(body: bytes) -> int:
    """The scans of a JPEG, and those of its thumbnail: within coded data a byte 0xFF is followed by 0x00."""
    return body.count(SCAN)


def decode_jpeg(body: bytes, header: JpegHeader, *, reduction: int, will_shrink: bool) -> Pixels:
    """Decodes to RGB at 1/`reduction` (1, 2, 4 or 8) of the stored size, rounded up.

    Raises JpegCutError when its data end before its lines do, and ValueError for what another decoder may know.
    """
    return _heeding_remarks(lambda strict: _decode(body, header, reduction, will_shrink, strict))


def decode_jpeg_planes(body: bytes, header: JpegHeader) -> StoredPlanes | None:
    """Decodes to the planes that are stored; None where those are not of YCbCr, or of uncommon sizes.

    Raises as `decode_jpeg` does.
    """
    if header.components != 3:
        return None
    return _heeding_remarks(lambda strict: decode_planes(body, (header.width, header.height), strict=strict))


def _heeding_remarks(decode: Callable[[bool], Decoded]) -> Decoded:
    """What `decode` gives, told whether to be strict, after the library's remarks are weighed."""
    try:
        return decode(True)
    except ValueError as error:
        remark = str(error)
    if "premature end of data segment" in remark:
        raise JpegCutError(remark)
    if "extraneous bytes before marker" not in remark:
        raise ValueError(remark)
    return decode(False)  # cameras write such bytes; all decoders skip them


def _decode(body: bytes, header: JpegHeader, reduction: int, will_shrink: bool, strict: bool) -> Pixels:
    pixels = simplejpeg.decode_jpeg(
        body,
        "RGB",
        # Chroma that is about to shrink needs no smoothing; the fast DCT would cost over 1 dB.
        fastupsample=will_shrink,
        min_height=-(-header.height // reduction),
        min_width=-(-header.width // reduction),
        strict=strict,
    )
    return np.asarray(pixels, dtype=np.uint8)


def _read_segments(body: bytes) -> JpegHeader | None:
    size: Size | None = None
    exif, has_icc, components, is_progressive, place = b"", False, 0, False, 2
    while True:
        if body[place] != 0xFF:
            return None
        marker = body[place + 1]
        if marker == 0xFF:
            place += 1
            continue
        if marker in WITHOUT_LENGTH:
            place += 2
            continue
        if marker == START_OF_SCAN:
            # A scan that holds all components is the only one.
            is_only = not is_progressive and body[place + 4] == components
            scans = 1 if is_only else count_scans(body)
            return JpegHeader(*size, components, exif, has_icc, scans) if size else None
        if marker == END_OF_IMAGE or marker in OTHER_FRAMES:
            return None
        (length,) = struct.unpack_from(">H", body, place + 2)
        if marker in FRAMES:
            precision, height, width, components = struct.unpack_from(">BHHB", body, place + 4)
            if precision != 8 or components not in (1, 3) or not width or not height:
                return None
            size, is_progressive = (width, height), marker == PROGRESSIVE
        elif marker == APP1 and not exif and body.startswith(EXIF, place + 4):
            exif = body[place + 4 : place + 2 + length]
        elif marker == APP2 and body.startswith(ICC, place + 4):
            has_icc = True
        place += 2 + length
