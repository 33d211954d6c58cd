"""JPEGs that are scaled as they are stored, in planes of light and colour, look as if scaled in RGB."""

import io

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from datapipe import image, turbojpeg
from datapipe.addresses import Refusal
from datapipe.config import BuildConfig
from datapipe.encode import encode_planes
from datapipe.image import StoredImage, process_image
from datapipe.planes import HalvedPlanes, scale_planes
from datapipe.status import SampleStatus
from datapipe.turbojpeg import decode_planes
from infra.errors import MachineError

SUBSAMPLINGS = ("444", "422", "420", "440")


def photograph(width: int, height: int, seed: int = 0) -> np.ndarray:
    """Soft shapes under a little grain: (height, width, 3)."""
    chance = np.random.default_rng(seed)
    soft = Image.fromarray(chance.integers(0, 256, (7, 9, 3), np.uint8)).resize((width, height), Image.BICUBIC)
    return (np.asarray(soft) + chance.normal(0, 4, (height, width, 3))).clip(0, 255).astype(np.uint8)


def jpeg(pixels: np.ndarray, subsampling: str = "420") -> bytes:
    return simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), 94, "RGB", subsampling)


def config(**values: object) -> BuildConfig:
    return BuildConfig(input="", output="", **values)


def stored(body: bytes, **values: object) -> StoredImage:
    result = process_image(body, config(**values))
    assert isinstance(result, StoredImage), result
    return result


def scaled_in_rgb(body: bytes, monkeypatch: pytest.MonkeyPatch, **values: object) -> StoredImage:
    with monkeypatch.context() as patch:
        patch.setattr(image, "_keeps_planes", lambda *_: False)
        return stored(body, **values)


def difference(one: bytes, other: bytes) -> float:
    """Mean absolute difference in steps of 8 bits."""
    pixels = (np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(float) for data in (one, other))
    return float(np.abs(next(pixels) - next(pixels)).mean())


@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
@pytest.mark.parametrize("size", [(500, 375), (375, 500), (511, 381), (258, 257), (560, 259)])
def test_the_picture_is_that_of_the_way_through_rgb(
    subsampling: str, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
):
    body = jpeg(photograph(*size), subsampling)
    ours, reference = stored(body), scaled_in_rgb(body, monkeypatch)
    assert (ours.width, ours.height) == (reference.width, reference.height)
    assert ours.data != reference.data, "the planes were not used"
    assert difference(ours.data, reference.data) < 2  # a JPEG's own error here is 1 to 2


@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
def test_colours_stay_where_they_are_to_a_part_of_a_pixel(subsampling: str):
    # A wave of colour alone, of equal light; the sides are odd, so that the last pixels of colour are parts of one.
    def wave(width: int, height: int, step: tuple[float, float], shift: tuple[float, float] = (0, 0)) -> np.ndarray:
        x, y = np.meshgrid((np.arange(width) + 0.5) * step[0], (np.arange(height) + 0.5) * step[1])
        return 40 * np.sin((x + shift[0]) / 9) * np.cos((y + shift[1]) / 9)

    colour = wave(501, 375, (1, 1))
    ycc = np.stack([np.full_like(colour, 128), 128 + colour, 128 - colour], -1).round().astype(np.uint8)
    result = stored(jpeg(np.asarray(Image.fromarray(ycc, "YCbCr").convert("RGB")), subsampling))
    got = np.asarray(Image.open(io.BytesIO(result.data)).convert("YCbCr"))[..., 1].astype(float) - 128
    height, width = got.shape
    in_place, *shifted = (
        np.abs(got - wave(width, height, (501 / width, 375 / height), shift)).mean()
        for shift in ((0, 0), (0.4, 0), (-0.4, 0), (0, 0.4), (0, -0.4))
    )
    assert in_place < min(shifted)


@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
def test_planes_of_every_size_have_half_of_it_rounded_up(subsampling: str):
    chance = np.random.default_rng(0)
    for _ in range(150):
        width, height = (int(side) for side in chance.integers(2, 200, 2))
        size = (int(chance.integers(-(-width // 2.2), width + 1)), int(chance.integers(-(-height // 2.2), height + 1)))
        planes = decode_planes(jpeg(photograph(width, height), subsampling), (width, height), strict=True)
        assert planes is not None
        halved = scale_planes(planes, size)
        half = (-(-size[1] // 2), -(-size[0] // 2))
        assert halved.light.shape == (2 * half[0], 2 * half[1]), (width, height, size)
        assert halved.blue.shape == halved.red.shape == half, (width, height, size)


def test_the_light_is_the_decoders_to_the_last_bit():
    body = jpeg(photograph(301, 203))
    planes = decode_planes(body, (301, 203), strict=True)
    assert planes is not None
    assert np.array_equal(planes.light, simplejpeg.decode_jpeg(body, "GRAY")[..., 0])


@pytest.mark.parametrize("size", [(341, 256), (256, 341), (341, 255), (300, 200)])
def test_what_lies_behind_the_planes_in_memory_does_not_matter(size: tuple[int, int]):
    # libjpeg-turbo reads planes of even sides: the last lines of odd ones must be there twice.
    planes = decode_planes(jpeg(photograph(501, 375)), (501, 375), strict=True)
    assert planes is not None
    halved = scale_planes(planes, size)
    encoded = set()
    for fill in (0, 255):
        copies = []
        for plane in (halved.light, halved.blue, halved.red):
            memory = np.full(plane.size + 4096, fill, np.uint8)
            copies.append(memory[: plane.size].reshape(plane.shape))
            copies[-1][:] = plane
        encoded.add(encode_planes(HalvedPlanes(size, *copies), config()))
    assert len(encoded) == 1
    (data,) = encoded
    assert Image.open(io.BytesIO(data)).size == size
    assert np.array_equal(halved.light[:, -1], halved.light[:, -2]) == bool(size[0] % 2)


def rgb_jpeg() -> bytes:
    """A JPEG that stores red, green and blue, as an Adobe segment may say."""
    stream = io.BytesIO()
    Image.fromarray(photograph(500, 375)).save(stream, "JPEG", quality=94, keep_rgb=True)
    return stream.getvalue()


def grey_jpeg() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(photograph(500, 375)).convert("L").save(stream, "JPEG", quality=94)
    return stream.getvalue()


ONLY_IN_RGB: dict[str, tuple[bytes, dict[str, object]]] = {
    "stored as RGB": (rgb_jpeg(), {}),
    "grey": (grey_jpeg(), {}),
    "4:1:1": (jpeg(photograph(500, 375), "411"), {}),
    "as PNG": (jpeg(photograph(500, 375)), {"encode_format": "png", "encode_quality": 6}),
    "cropped": (jpeg(photograph(500, 375)), {"resize_mode": "center_crop"}),
    "with a border": (jpeg(photograph(500, 375)), {"resize_mode": "border"}),
    "much smaller": (jpeg(photograph(500, 375)), {"image_size": 100}),
    "a line": (jpeg(photograph(500, 2)), {"image_size": 1}),
    "of its own size": (jpeg(photograph(200, 150)), {}),
    "larger": (jpeg(photograph(120, 90)), {"resize_only_if_bigger": False}),
}


@pytest.mark.parametrize("name", ONLY_IN_RGB)
def test_what_planes_do_not_serve_goes_through_rgb(name: str, monkeypatch: pytest.MonkeyPatch):
    body, values = ONLY_IN_RGB[name]
    assert stored(body, **values).data == scaled_in_rgb(body, monkeypatch, **values).data


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 0.99])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_cut_photograph_is_broken(share: float, progressive: bool):
    stream = io.BytesIO()
    Image.fromarray(photograph(500, 375)).save(stream, "JPEG", quality=94, progressive=progressive)
    result = process_image(stream.getvalue()[: int(len(stream.getvalue()) * share)], config())
    assert isinstance(result, Refusal) and result.status is SampleStatus.BROKEN_IMAGE


def test_damage_is_found_where_the_way_through_rgb_finds_it(monkeypatch: pytest.MonkeyPatch):
    body = jpeg(photograph(500, 375))
    chance, remarked = np.random.default_rng(0), 0
    for _ in range(60):
        damaged = bytearray(body)
        for place in chance.integers(700, len(body), 5):
            damaged[place] = chance.integers(0, 256)
        ours = process_image(bytes(damaged), config())
        with monkeypatch.context() as patch:
            patch.setattr(image, "_keeps_planes", lambda *_: False)
            reference = process_image(bytes(damaged), config())
        assert isinstance(ours, Refusal) == isinstance(reference, Refusal)
        remarked += raises_in_strictness(bytes(damaged))
    assert remarked > 40


def raises_in_strictness(body: bytes) -> bool:
    try:
        decode_planes(body, (500, 375), strict=True)
    except ValueError as error:
        with pytest.raises(ValueError, match=r"."):
            simplejpeg.decode_jpeg(body, "RGB", strict=True)
        return bool(str(error))
    simplejpeg.decode_jpeg(body, "RGB", strict=True)
    return False


def test_bytes_that_cameras_leave_before_a_marker_cost_nothing():
    body = jpeg(photograph(500, 375))
    assert body.endswith(b"\xff\xd9")
    with_more = body[:-2] + bytes(16) + body[-2:]
    with pytest.raises(ValueError, match="extraneous bytes before marker"):
        decode_planes(with_more, (500, 375), strict=True)
    assert stored(with_more).data == stored(body).data


def test_without_the_library_the_machine_is_said_not_to_be_as_needed(monkeypatch: pytest.MonkeyPatch):
    turbojpeg._library.cache_clear()
    monkeypatch.setattr(turbojpeg, "_packaged_library", lambda: None)
    monkeypatch.setattr(turbojpeg.ctypes.util, "find_library", lambda _: None)
    with pytest.raises(MachineError, match="libturbojpeg cannot be used"):
        process_image(jpeg(photograph(500, 375)), config())


def test_a_header_that_says_two_sizes_has_no_planes():
    assert decode_planes(jpeg(photograph(500, 375)), (375, 500), strict=True) is None
