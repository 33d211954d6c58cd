"""The perceptual hash stays for copies of a picture, and differs between pictures."""

import io
import resource

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter

from datapipe.phash import perceptual_hash
from training.pictures import decode_picture


def scene(seed: int, size: tuple[int, int] = (320, 240)) -> Image.Image:
    """Soft shapes, as in a photograph."""
    coarse = np.random.default_rng(seed).integers(0, 255, (9, 12, 3)).astype(np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def encoded(picture: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def hash_of(data: bytes) -> int:
    found = perceptual_hash(data)
    assert found is not None
    return found


COPIES = {
    "compressed": lambda picture: encoded(picture, quality=40),
    "as PNG": lambda picture: encoded(picture, "PNG"),
    "as WebP": lambda picture: encoded(picture, "WEBP", quality=60),
    "smaller": lambda picture: encoded(picture.resize((160, 120)), quality=90),
    "larger": lambda picture: encoded(picture.resize((800, 600), Image.Resampling.BICUBIC), quality=90),
    "brighter": lambda picture: encoded(ImageEnhance.Brightness(picture).enhance(1.15), quality=90),
    "grey": lambda picture: encoded(picture.convert("L"), quality=90),
    "blurred": lambda picture: encoded(picture.filter(ImageFilter.GaussianBlur(2)), quality=90),
}


@pytest.mark.parametrize("copy", COPIES)
def test_copies_are_within_a_few_bits(copy: str):
    distances = [
        (hash_of(encoded(scene(seed), quality=95)) ^ hash_of(COPIES[copy](scene(seed)))).bit_count()
        for seed in range(20)
    ]
    assert np.mean(distances) <= 3 and max(distances) <= 10


def test_other_pictures_are_far():
    hashes = [hash_of(encoded(scene(seed), quality=95)) for seed in range(40)]
    distances = [(a ^ b).bit_count() for place, a in enumerate(hashes) for b in hashes[:place]]
    assert min(distances) > 10 and 25 < np.mean(distances) < 38


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (200, 30, 90)])
def test_a_picture_without_structure_has_none(colour: tuple[int, int, int]):
    assert perceptual_hash(encoded(Image.new("RGB", (300, 200), colour), quality=70)) is None


@pytest.mark.parametrize("data", [b"", b"no picture", encoded(scene(0), quality=95)[:40]])
def test_what_is_no_picture_has_none(data: bytes):
    assert perceptual_hash(data) is None


def test_a_picture_that_would_fill_the_memory_is_not_decoded():
    huge = encoded(Image.new("L", (30_000, 30_000)), quality=10)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert perceptual_hash(huge) is None and decode_picture(huge) is None
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KB; decoded it has 900 MB
