"""Downloaded bytes to stored pictures: every form of picture looks right, every bad one has its reason."""

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from datapipe.addresses import Refusal
from datapipe.config import BuildConfig
from datapipe.image import CUT, StoredImage, process_image
from datapipe.status import SampleStatus

ROTATED_RIGHT = 6  # EXIF: the camera was turned, the picture's top is its right side
RED, GREEN, BLUE, WHITE = (220, 30, 30), (20, 180, 40), (30, 40, 210), (255, 255, 255)


def config(**values: object) -> BuildConfig:
    return BuildConfig.model_validate(
        {"input": "", "output": "", "encode_format": "png", "encode_quality": 1, **values}
    )


def corners(width: int = 64, height: int = 48) -> Image.Image:
    """Red, green above blue, white: so that a turn, a flip or a swap of channels shows."""
    picture = Image.new("RGB", (width, height), RED)
    picture.paste(GREEN, (width // 2, 0, width, height // 2))
    picture.paste(BLUE, (0, height // 2, width // 2, height))
    picture.paste(WHITE, (width // 2, height // 2, width, height))
    return picture


def encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def stored(body: bytes, **values: object) -> StoredImage:
    result = process_image(body, config(**values))
    assert isinstance(result, StoredImage), result
    return result


def pixels(image: StoredImage) -> np.ndarray:
    return cv2.cvtColor(cv2.imdecode(np.frombuffer(image.data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def colours(image: StoredImage) -> list[tuple[int, ...]]:
    """The colours in the middle of the four quarters."""
    array, (height, width) = pixels(image), (image.height, image.width)
    places = [
        (height // 4, width // 4),
        (height // 4, width * 3 // 4),
        (height * 3 // 4, width // 4),
        (height * 3 // 4, width * 3 // 4),
    ]
    return [tuple(map(int, array[place])) for place in places]


def assert_colours(image: StoredImage, *expected: tuple[int, int, int], tolerance: int = 6) -> None:
    difference = np.abs(np.array(colours(image)) - np.array(expected))
    assert difference.max() <= tolerance, colours(image)


def with_alpha(picture: Image.Image) -> Image.Image:
    picture = picture.convert("RGBA")
    picture.paste((9, 9, 9, 0), (0, 0, picture.width // 2, picture.height // 2))
    return picture


FORMS = {
    "jpeg": encoded(corners(), "JPEG", quality=95),
    "progressive": encoded(corners(), "JPEG", quality=95, progressive=True),
    "cmyk": encoded(corners().convert("CMYK"), "JPEG", quality=95),
    "png": encoded(corners(), "PNG"),
    "palette": encoded(corners().quantize(8), "PNG"),
    "webp": encoded(corners(), "WEBP", quality=95),
    "lossless webp": encoded(corners(), "WEBP", lossless=True),
    "gif": encoded(corners(), "GIF"),
    "bmp": encoded(corners(), "BMP"),
    "tiff": encoded(corners(), "TIFF"),
    "avif": encoded(corners(), "AVIF", quality=95),
    "jpeg 2000": encoded(corners(), "JPEG2000"),
    "animated gif": encoded(corners(), "GIF", save_all=True, append_images=[Image.new("RGB", (64, 48), "black")]),
    "animated webp": encoded(
        corners(), "WEBP", lossless=True, save_all=True, append_images=[Image.new("RGB", (64, 48))]
    ),
    "icon": encoded(corners(64, 64), "ICO"),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_format_gives_the_same_picture(form: str):
    assert_colours(stored(FORMS[form]), RED, GREEN, BLUE, WHITE, tolerance=12)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF"])
def test_what_is_transparent_becomes_white(kind: str):
    options = {"lossless": True} if kind == "WEBP" else {}
    assert_colours(stored(encoded(with_alpha(corners()), kind, **options)), WHITE, GREEN, BLUE, WHITE)


def test_grey_with_alpha_is_composited_too():
    grey = Image.new("LA", (40, 40), (0, 128))
    assert_colours(stored(encoded(grey, "PNG")), *[(127, 127, 127)] * 4)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_the_cameras_orientation_is_applied(kind: str):
    exif = Image.Exif()
    exif[0x0112] = ROTATED_RIGHT
    image = stored(encoded(corners(), kind, exif=exif))
    assert (image.width, image.height, image.original_width, image.original_height) == (48, 64, 48, 64)
    assert_colours(image, BLUE, RED, WHITE, GREEN, tolerance=12)


def test_sixteen_bits_a_sample_keep_their_brightness():
    ramp = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    got = pixels(stored(cv2.imencode(".png", ramp)[1].tobytes()))[..., 0]
    assert np.abs(got.astype(int) - (ramp >> 8)).max() <= 1


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"<!doctype html><title>Gone</title>", SampleStatus.NOT_AN_IMAGE),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', SampleStatus.NOT_AN_IMAGE),
        (b"\x00" * 100, SampleStatus.NOT_AN_IMAGE),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", SampleStatus.NOT_AN_IMAGE),
        (b"\xff\xd8\xff\xe0nothing more", SampleStatus.BROKEN_IMAGE),
        (b"\x89PNG\r\n\x1a\n", SampleStatus.BROKEN_IMAGE),
        (b"GIF89a", SampleStatus.BROKEN_IMAGE),
        (b"RIFF\x10\x00\x00\x00WEBPVP8 ", SampleStatus.BROKEN_IMAGE),
        (b"BM" + b"\x00" * 60, SampleStatus.BROKEN_IMAGE),
    ],
)
def test_what_is_no_picture_has_its_reason(body: bytes, status: SampleStatus):
    result = process_image(body, config())
    assert isinstance(result, Refusal) and result.status is status


@pytest.mark.parametrize("form", ["jpeg", "progressive", "cmyk", "png", "webp", "gif", "bmp"])
@pytest.mark.parametrize("share", [0.5, 0.8])
def test_a_picture_that_was_cut_off_is_broken(form: str, share: float):
    noise = Image.fromarray(np.random.default_rng(3).integers(0, 256, (300, 300, 3), np.uint8))
    kind = {"progressive": "JPEG", "cmyk": "JPEG"}.get(form, form.upper())
    picture = noise.convert("CMYK") if form == "cmyk" else noise
    body = encoded(picture, kind, **({"progressive": True} if form == "progressive" else {}))
    result = process_image(body[: int(len(body) * share)], config())
    assert isinstance(result, Refusal) and result.status is SampleStatus.BROKEN_IMAGE


def png_that_claims(width: int, height: int) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


def icon_with(png: bytes) -> bytes:
    return struct.pack("<HHHBBBBHHII", 0, 1, 1, 16, 16, 0, 0, 1, 32, len(png), 22) + png


@pytest.mark.parametrize("body", [png_that_claims(60_000, 60_000), png_that_claims(20_000, 20_000)])
def test_too_many_pixels_are_told_from_the_header(body: bytes):
    for limit in (100_000_000, 300_000_000):
        result = process_image(body, config(max_image_pixels=limit))
        assert isinstance(result, Refusal) and result.status is SampleStatus.TOO_MANY_PIXELS


def test_a_picture_is_decoded_to_be_resized_but_not_stored_where_training_would_not_decode_it():
    larger = {"max_image_pixels": 300_000_000, "image_size": 8192}
    claims = png_that_claims(10_001, 10_000)
    result = process_image(claims, config(**larger, resize_mode="no"))
    assert isinstance(result, Refusal) and result.status is SampleStatus.TOO_MANY_PIXELS
    assert process_image(claims, config(**larger)) == CUT
    result = process_image(png_that_claims(15_000, 10_000), config(**larger))
    assert isinstance(result, Refusal) and result.status is SampleStatus.RESIZE_FAILED


def test_a_huge_picture_inside_a_small_one_is_not_decoded():
    result = process_image(icon_with(png_that_claims(60_000, 60_000)), config())
    assert isinstance(result, Refusal)


def test_a_line_of_pixels_is_not_blown_up_to_gigabytes():
    line = encoded(Image.new("RGB", (20_000, 1)), "PNG")
    result = process_image(line, config(resize_only_if_bigger=False, image_size=256))
    assert isinstance(result, Refusal) and result.status is SampleStatus.RESIZE_FAILED


@pytest.mark.parametrize(
    ("mode", "size"),
    [
        ("no", (600, 400)),
        ("keep_ratio", (150, 100)),
        ("keep_ratio_largest", (100, 67)),
        ("center_crop", (100, 100)),
        ("border", (100, 100)),
    ],
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_resize_modes_are_img2datasets(mode: str, size: tuple[int, int], kind: str):
    image = stored(encoded(corners(600, 400), kind), image_size=100, resize_mode=mode)
    assert (image.width, image.height) == size == pixels(image).shape[1::-1]
    assert (image.original_width, image.original_height) == (600, 400)


def test_a_smaller_picture_is_left_or_enlarged_as_configured():
    small = encoded(corners(30, 20), "PNG")
    assert stored(small, image_size=100).width == 30
    enlarged = stored(small, image_size=100, resize_only_if_bigger=False)
    assert (enlarged.width, enlarged.height) == (150, 100)


def test_a_border_is_white_and_a_crop_is_of_the_middle():
    wide = Image.new("RGB", (400, 200), RED)
    wide.paste(BLUE, (100, 0, 300, 200))
    bordered = pixels(stored(encoded(wide, "PNG"), image_size=100, resize_mode="border"))
    assert (bordered[:24] == 255).all() and (bordered[-24:] == 255).all()
    assert_colours(stored(encoded(wide, "PNG"), image_size=100, resize_mode="center_crop"), *[BLUE] * 4)


@pytest.mark.parametrize("encode_format", ["jpg", "png", "webp"])
def test_the_stored_format_is_the_configured_one_and_the_bytes_are_always_the_same(encode_format: str):
    quality = 9 if encode_format == "png" else 90
    first, second = (stored(FORMS["jpeg"], encode_format=encode_format, encode_quality=quality) for _ in range(2))
    assert first == second
    assert Image.open(io.BytesIO(first.data)).format == {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}[encode_format]


def test_bytes_are_kept_where_nothing_has_to_change():
    kept = {"encode_format": "jpg", "encode_quality": 95, "skip_reencode": True}
    assert stored(FORMS["jpeg"], **kept).data == FORMS["jpeg"]
    assert stored(FORMS["png"], **kept).data != FORMS["png"]
    assert stored(FORMS["jpeg"], **kept, image_size=20).data != FORMS["jpeg"]
    cut = process_image(FORMS["jpeg"][:-200], config(**kept))
    assert isinstance(cut, Refusal) and cut.status is SampleStatus.BROKEN_IMAGE


def test_a_picture_too_long_for_its_format_is_a_failure_of_its_own():
    long = encoded(Image.new("RGB", (20_000, 8)), "PNG")
    result = process_image(long, config(encode_format="webp", encode_quality=90, resize_mode="no"))
    assert isinstance(result, Refusal) and result.status is SampleStatus.RESIZE_FAILED


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(sorted(FORMS)),
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=8),
)
def test_no_damage_to_a_picture_raises(form: str, damage: list[tuple[int, int]]):
    body = bytearray(FORMS[form])
    for place, value in damage:
        body[place % len(body)] = value
    assert isinstance(process_image(bytes(body), config()), StoredImage | Refusal)
