"""Decodes a picture of any format with Pillow: first frame, RGB, on white where it is transparent."""

import io
import struct
import zlib
from collections.abc import Callable
from functools import lru_cache

import cv2
import numpy as np
from PIL import Image, ImageCms

from datapipe.config import BuildConfig, IccMode
from datapipe.jpeg2000 import decode_deep, is_deep
from datapipe.resize import Pixels

# Pillow knows more, some of which start other programs (EPS) or read other files.
READABLE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "ICO", "PPM")
# Hostile bytes make decoders fail in all these ways.
DECODER_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    ArithmeticError,
    LookupError,
    TypeError,
    AttributeError,
    RuntimeError,
    MemoryError,
    EOFError,
    AssertionError,
    struct.error,
    zlib.error,
    cv2.error,
)
ORIENTATION_TAG = 0x0112
STRIP_PIXELS = 4_000_000
WHITE = 255


def open_image(body: bytes, max_pixels: int) -> Image.Image:
    """Reads the header alone; memory for pixels is given later.

    Raises one of DECODER_ERRORS, and Image.DecompressionBombError above `max_pixels`.
    """
    # Pillow raises above twice its own limit, for pictures within pictures too.
    Image.MAX_IMAGE_PIXELS = max(1, max_pixels // 2)
    return Image.open(io.BytesIO(body), formats=_readable_formats())


def decode_image(image: Image.Image, body: bytes, config: BuildConfig, *, reduction: int) -> Pixels:
    """The first frame as stored (not yet upright), in RGB; a JPEG at 1/`reduction` of its size, rounded up.

    `image` is what `open_image` made of `body`. Raises one of DECODER_ERRORS.
    """
    if image.format == "JPEG2000" and is_deep(body):
        return decode_deep(body)
    if reduction > 1:
        image.draft(None, (-(-image.width // reduction), -(-image.height // reduction)))
    image.load()
    if config.icc is IccMode.SRGB and image.info.get("icc_profile"):
        image = _to_srgb(image)
    return _in_strips(image, _CONVERSIONS.get(image.mode, _convert))


def exif_of(image: Image.Image) -> bytes:
    """The picture's EXIF block; empty when there is none."""
    exif = image.info.get("exif")
    return exif if isinstance(exif, bytes) else b""


def orientation_of(exif: bytes) -> int:
    """The EXIF orientation, 1 to 8; a damaged block counts as none."""
    if not exif:
        return 1
    try:
        orientation = read_exif(exif).get(ORIENTATION_TAG, 1)
    except DECODER_ERRORS:
        return 1
    return orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1


def read_exif(exif: bytes) -> Image.Exif:
    """The tags of an EXIF block. Raises one of DECODER_ERRORS."""
    tags = Image.Exif()
    tags.load(exif)
    return tags


def make_upright(pixels: Pixels, orientation: int) -> Pixels:
    """Turns and mirrors the stored pixels as the camera was held. Source: EXIF 2.32, 4.6.4 A, tag 0x0112."""
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


@lru_cache
def _readable_formats() -> tuple[str, ...]:
    """Those that this Pillow was built with: it raises KeyError for others."""
    Image.init()
    return tuple(name for name in READABLE_FORMATS if name in Image.OPEN)


def _to_srgb(image: Image.Image) -> Image.Image:
    """The picture in sRGB, by its own profile; as it is when the profile is damaged or of another kind of pixels."""
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
        mode = {"CMYK": "RGB", "L": "RGB"}.get(image.mode, image.mode)
        converted = ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), outputMode=mode)
    except (ImageCms.PyCMSError, *DECODER_ERRORS):
        return image
    return converted or image


def _in_strips(image: Image.Image, convert: Callable[[Image.Image], Image.Image]) -> Pixels:
    """Converts some lines at a time: the copies of a whole large picture would take gigabytes."""
    lines = max(1, STRIP_PIXELS // image.width)
    if lines >= image.height:
        return np.asarray(convert(image), dtype=np.uint8)
    pixels = np.empty((image.height, image.width, 3), dtype=np.uint8)
    for top in range(0, image.height, lines):
        bottom = min(image.height, top + lines)
        pixels[top:bottom] = np.asarray(convert(image.crop((0, top, image.width, bottom))))
    return pixels


def _convert(image: Image.Image) -> Image.Image:
    return _on_white(image) if "transparency" in image.info else image.convert("RGB")


def _on_white(image: Image.Image) -> Image.Image:
    rgba = image.convert("RGBA")
    background = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
    return Image.alpha_composite(background, rgba).convert("RGB")


def _from_16_bit(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.int64)
    pixels = (values.clip(0, 65535) >> 8).astype(np.uint8)
    if isinstance(image.info.get("transparency"), int):
        pixels[values == image.info["transparency"]] = WHITE
    return Image.fromarray(pixels).convert("RGB")


def _from_float(image: Image.Image) -> Image.Image:
    values = np.nan_to_num(np.asarray(image, dtype=np.float64))
    return Image.fromarray(values.clip(0, 255).astype(np.uint8)).convert("RGB")


_CONVERSIONS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "RGBA": _on_white,
    "LA": _on_white,
    "PA": _on_white,
    "La": _on_white,
    "RGBa": _on_white,
    "I": _from_16_bit,
    "I;16": _from_16_bit,
    "I;16B": _from_16_bit,
    "I;16L": _from_16_bit,
    "I;16N": _from_16_bit,
    "F": _from_float,
}
