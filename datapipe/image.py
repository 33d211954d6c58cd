"""Turns downloaded bytes into a stored picture: header, filters, decode, resize, encode."""

from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image, UnidentifiedImageError

from datapipe.addresses import Refusal
from datapipe.config import MAX_IMAGE_PIXELS, BuildConfig, EncodeFormat, IccMode, ResizeMode
from datapipe.decode import DECODER_ERRORS, decode_image, exif_of, make_upright, open_image, orientation_of
from datapipe.encode import encode, encode_planes
from datapipe.exif import exif_json
from datapipe.filters import refuse_shape
from datapipe.jpeg import (
    JPEG_MAGIC,
    MAX_SCANS,
    JpegCutError,
    JpegHeader,
    count_scans,
    decode_jpeg,
    decode_jpeg_planes,
    read_jpeg_header,
)
from datapipe.planes import StoredPlanes, scale_planes
from datapipe.resize import Pixels, Size, is_cubic, needs_resize, reduction_for, resize, scaled_size
from datapipe.status import SampleStatus

MAGIC = (
    *(JPEG_MAGIC, b"\x89PNG\r\n\x1a\n", b"GIF8", b"BM", b"II*\x00", b"MM\x00*", b"\x00\x00\x01\x00"),
    *(b"\x00\x00\x00\x0cjP  ", b"\xff\x4f\xff\x51", b"P4", b"P5", b"P6", b"Pf", b"PF"),
)
STORED_FORMAT = {EncodeFormat.JPG: "JPEG", EncodeFormat.PNG: "PNG", EncodeFormat.WEBP: "WEBP"}
CUT = Refusal(SampleStatus.BROKEN_IMAGE, "the picture is cut or damaged")


@dataclass(frozen=True, slots=True)
class StoredImage:
    """A picture as it goes into the shard; original sizes are those after the camera's orientation.

    `exif` is a JSON text, or None when it is not asked for.
    """

    data: bytes
    width: int
    height: int
    original_width: int
    original_height: int
    exif: str | None


@dataclass(frozen=True, slots=True)
class _Opened:
    """A picture whose header is read and whose pixels are not.

    `decode` takes by how much to reduce the size (1, or where `can_reduce` also 2, 4 and 8), and whether more
    shrinking follows. `decode_planes` gives the planes of a JPEG, or None for a picture that has none of use.
    """

    stored: Size
    exif: bytes
    can_reduce: bool
    is_stored_form: bool
    decode: Callable[[int, bool], Pixels]
    decode_planes: Callable[[], StoredPlanes | None]


def process_image(body: bytes, config: BuildConfig) -> StoredImage | Refusal:
    """The downloaded picture as the config wants it stored, or why it is left out. Never raises for bad bytes."""
    header = read_jpeg_header(body)
    scans = header.scans if header is not None else count_scans(body) if body.startswith(JPEG_MAGIC) else 0
    if scans > MAX_SCANS:
        return Refusal(SampleStatus.BROKEN_IMAGE, f"more than {MAX_SCANS} scans")
    if header is not None and not (header.has_icc and config.icc is IccMode.SRGB):
        try:
            return _process(_plain_jpeg(body, header, config), body, config)
        except JpegCutError:
            return CUT
        except ValueError:
            # libjpeg-turbo remarked on something; Pillow tells whether it matters.
            pass
    try:
        return _process(_any_format(open_image(body, config.max_image_pixels), body, config), body, config)
    except Image.DecompressionBombError:
        return _too_many_pixels(config)
    except UnidentifiedImageError:
        if not _has_magic(body):
            return Refusal(SampleStatus.NOT_AN_IMAGE, "the answer is not a picture of a known format")
        return CUT
    except DECODER_ERRORS:
        return CUT


def _plain_jpeg(body: bytes, header: JpegHeader, config: BuildConfig) -> _Opened:
    def decode(reduction: int, will_shrink: bool) -> Pixels:
        return decode_jpeg(body, header, reduction=reduction, will_shrink=will_shrink)

    def decode_planes() -> StoredPlanes | None:
        return decode_jpeg_planes(body, header)

    is_stored_form = config.encode_format is EncodeFormat.JPG
    return _Opened((header.width, header.height), header.exif, True, is_stored_form, decode, decode_planes)


def _any_format(image: Image.Image, body: bytes, config: BuildConfig) -> _Opened:
    def decode(reduction: int, _will_shrink: bool) -> Pixels:
        return decode_image(image, body, config, reduction=reduction)

    is_stored_form = (
        image.format == STORED_FORMAT[config.encode_format]
        and image.mode in ("RGB", "L")
        and not getattr(image, "is_animated", False)
    )
    return _Opened(image.size, exif_of(image), image.format == "JPEG", is_stored_form, decode, lambda: None)


def _process(opened: _Opened, body: bytes, config: BuildConfig) -> StoredImage | Refusal:
    orientation = orientation_of(opened.exif)
    original = opened.stored if orientation < 5 else opened.stored[::-1]
    refusal = _refuse(original, config)
    if refusal is not None:
        return refusal
    if not needs_resize(*original, config):
        if original[0] * original[1] > MAX_IMAGE_PIXELS:
            return Refusal(SampleStatus.TOO_MANY_PIXELS, f"stored as it is, more than {MAX_IMAGE_PIXELS} pixels")
        pixels = make_upright(opened.decode(1, False), orientation)
        if config.skip_reencode and opened.is_stored_form and orientation == 1:
            return _stored(body, original, original, opened, config)
        return _encoded(pixels, original, opened, config)
    size = scaled_size(*original, config)
    most_pixels = min(config.max_image_pixels, MAX_IMAGE_PIXELS)
    if size[0] * size[1] > most_pixels:
        # A line of pixels, made larger: keeping its ratio would take gigabytes.
        return Refusal(SampleStatus.RESIZE_FAILED, f"resized, more than {most_pixels} pixels")
    reduction = reduction_for(original, size) if opened.can_reduce else 1
    if orientation != 1 and any(side % reduction for side in original):
        reduction = 1  # turned, the part of a pixel at the end would come to lie at the start
    if reduction == orientation == 1 and _keeps_planes(original, size, config):
        planes = opened.decode_planes()
        if planes is not None:
            return _stored(encode_planes(scale_planes(planes, size), config), size, original, opened, config)
    pixels = make_upright(opened.decode(reduction, min(size) < min(original)), orientation)
    return _encoded(resize(pixels, original, size, config, reduction=reduction), original, opened, config)


def _keeps_planes(original: Size, size: Size, config: BuildConfig) -> bool:
    """Whether a JPEG of this size may be scaled as it is stored, in planes: most photographs are."""
    return (
        config.encode_format is EncodeFormat.JPG
        and config.resize_mode in (ResizeMode.KEEP_RATIO, ResizeMode.KEEP_RATIO_LARGEST)
        and is_cubic((original[0] / size[0], original[1] / size[1]))
        and min(size) > 1  # with a line of pixels, the encoder takes planes of half the size for those of another form
    )


def _refuse(original: Size, config: BuildConfig) -> Refusal | None:
    """Told from the header, so that nothing is spent on pictures that are left out."""
    if original[0] * original[1] > config.max_image_pixels:
        return _too_many_pixels(config)
    return refuse_shape(*original, config)


def _encoded(pixels: Pixels, original: Size, opened: _Opened, config: BuildConfig) -> StoredImage | Refusal:
    try:
        data = encode(pixels, config)
    except DECODER_ERRORS:
        return Refusal(SampleStatus.RESIZE_FAILED, f"the picture cannot be stored as {config.encode_format}")
    return _stored(data, (pixels.shape[1], pixels.shape[0]), original, opened, config)


def _stored(data: bytes, size: Size, original: Size, opened: _Opened, config: BuildConfig) -> StoredImage:
    return StoredImage(data, *size, *original, exif_json(opened.exif) if config.extract_exif else None)


def _too_many_pixels(config: BuildConfig) -> Refusal:
    return Refusal(SampleStatus.TOO_MANY_PIXELS, f"more than {config.max_image_pixels} pixels")


def _has_magic(body: bytes) -> bool:
    return (
        body.startswith(MAGIC)
        or (body[:4] == b"RIFF" and body[8:12] == b"WEBP")
        or body[4:12] in (b"ftypavif", b"ftypavis")
    )
