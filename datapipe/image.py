"""Turns downloaded bytes into a stored picture: decode, filter, resize, encode."""

import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from datapipe.addresses import Refusal
from datapipe.config import BuildConfig, EncodeFormat
from datapipe.filters import refuse_shape
from datapipe.resize import Pixels, needs_resize, resize, scaled_size
from datapipe.status import SampleStatus

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
MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"BM", b"II*\x00", b"MM\x00*")
DRAFT_FACTOR = 2  # JPEGs are decoded at no less than twice the wanted size, which keeps the resize free of aliasing
STORED_FORMAT = {EncodeFormat.JPG: "JPEG", EncodeFormat.PNG: "PNG", EncodeFormat.WEBP: "WEBP"}


@dataclass(frozen=True, slots=True)
class StoredImage:
    """A picture as it goes into the shard; original sizes are those after the camera's orientation."""

    data: bytes
    width: int
    height: int
    original_width: int
    original_height: int


def process_image(body: bytes, config: BuildConfig) -> StoredImage | Refusal:
    """The downloaded picture as the config wants it stored, or why it is left out. Never raises for bad bytes."""
    opened = _open(body, config)
    if isinstance(opened, Refusal):
        return opened
    try:
        width, height = _oriented_size(opened)
        refusal = refuse_shape(width, height, config)
        if refusal is not None:
            return refusal
        size = scaled_size(width, height, config) if needs_resize(width, height, config) else None
        if size is not None and size[0] * size[1] > config.max_image_pixels:
            # A line of pixels, made larger: keeping its ratio would take gigabytes.
            return Refusal(SampleStatus.RESIZE_FAILED, f"resized, more than {config.max_image_pixels} pixels")
        if config.skip_reencode and size is None and _is_stored_form(opened, config):
            opened.load()
            return StoredImage(body, width, height, width, height)
        pixels = _decode(opened, config if size is not None else None)
    except Image.DecompressionBombError:
        return _too_many_pixels(config)
    except DECODER_ERRORS:
        return Refusal(SampleStatus.BROKEN_IMAGE, "the picture is cut or damaged")
    return _store(pixels if size is None else resize(pixels, size, config), (width, height), config)


def _open(body: bytes, config: BuildConfig) -> Image.Image | Refusal:
    """Reads the header alone; pictures with too many pixels end here, before memory is given to them."""
    # Pillow raises above twice its own limit, for pictures within pictures too.
    Image.MAX_IMAGE_PIXELS = max(1, config.max_image_pixels // 2)
    try:
        image = Image.open(io.BytesIO(body), formats=_readable_formats())
    except Image.DecompressionBombError:
        return _too_many_pixels(config)
    except DECODER_ERRORS as error:
        if isinstance(error, UnidentifiedImageError) and not _has_magic(body):
            return Refusal(SampleStatus.NOT_AN_IMAGE, "the answer is not a picture of a known format")
        return Refusal(SampleStatus.BROKEN_IMAGE, "the picture is cut or damaged")
    if image.width * image.height > config.max_image_pixels:
        return _too_many_pixels(config)
    return image


@lru_cache
def _readable_formats() -> tuple[str, ...]:
    """Those that this Pillow was built with: it raises KeyError for others."""
    Image.init()
    return tuple(name for name in READABLE_FORMATS if name in Image.OPEN)


def _too_many_pixels(config: BuildConfig) -> Refusal:
    return Refusal(SampleStatus.TOO_MANY_PIXELS, f"more than {config.max_image_pixels} pixels")


def _has_magic(body: bytes) -> bool:
    return body.startswith(MAGIC) or (body[:4] == b"RIFF" and body[8:12] == b"WEBP") or body[4:8] == b"ftyp"


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; a damaged EXIF block counts as none."""
    if not image.info.get("exif"):
        return 1
    try:
        return int(image.getexif().get(0x0112, 1))
    except DECODER_ERRORS:
        return 1


def _oriented_size(image: Image.Image) -> tuple[int, int]:
    is_turned = _orientation(image) in (5, 6, 7, 8)
    return (image.height, image.width) if is_turned else (image.width, image.height)


def _is_stored_form(image: Image.Image, config: BuildConfig) -> bool:
    return (
        image.format == STORED_FORMAT[config.encode_format]
        and image.mode in ("RGB", "L")
        and _orientation(image) == 1
        and not getattr(image, "is_animated", False)
    )


def _decode(image: Image.Image, config: BuildConfig | None) -> Pixels:
    """The first frame as RGB, upright, on white where it is transparent; scaled while decoding if it may be."""
    orientation = _orientation(image)
    if config is not None and image.format == "JPEG":
        wanted = DRAFT_FACTOR * config.image_size
        image.draft("RGB", (wanted, wanted))
    image.load()
    rgb = _CONVERSIONS.get(image.mode, _convert)(image)
    if orientation != 1:
        rgb = ImageOps.exif_transpose(_with_orientation(rgb, orientation))
    return np.asarray(rgb, dtype=np.uint8)


def _convert(image: Image.Image) -> Image.Image:
    return _on_white(image) if "transparency" in image.info else image.convert("RGB")


def _on_white(image: Image.Image) -> Image.Image:
    rgba = image.convert("RGBA")
    background = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
    return Image.alpha_composite(background, rgba).convert("RGB")


def _from_16_bit(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.int64)
    return Image.fromarray((values.clip(0, 65535) >> 8).astype(np.uint8)).convert("RGB")


def _from_float(image: Image.Image) -> Image.Image:
    values = np.nan_to_num(np.asarray(image, dtype=np.float64))
    return Image.fromarray(values.clip(0, 255).astype(np.uint8)).convert("RGB")


def _with_orientation(image: Image.Image, orientation: int) -> Image.Image:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.info["exif"] = exif.tobytes()
    return image


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


def _store(pixels: Pixels, original: tuple[int, int], config: BuildConfig) -> StoredImage | Refusal:
    height, width = pixels.shape[:2]
    try:
        done, data = cv2.imencode(f".{config.encode_format}", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), _options(config))
    except cv2.error:
        done = False
    if not done:
        # A WebP or JPEG has at most 16,383 or 65,535 pixels a side.
        return Refusal(SampleStatus.RESIZE_FAILED, f"the picture cannot be stored as {config.encode_format}")
    return StoredImage(data.tobytes(), width, height, *original)


@lru_cache
def _options_of(encode_format: EncodeFormat, quality: int) -> tuple[int, int]:
    flags = {
        EncodeFormat.JPG: cv2.IMWRITE_JPEG_QUALITY,
        EncodeFormat.PNG: cv2.IMWRITE_PNG_COMPRESSION,
        EncodeFormat.WEBP: cv2.IMWRITE_WEBP_QUALITY,
    }
    return int(flags[encode_format]), quality


def _options(config: BuildConfig) -> tuple[int, int]:
    return _options_of(config.encode_format, config.encode_quality)
