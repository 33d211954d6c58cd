"""The same list built by img2dataset and by us: keys, captions, statuses, sizes, hashes and pixels agree."""

import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hostile_web import HostileWeb
from PIL import Image

from datapipe.build import build, check_build
from datapipe.config import BuildConfig
from datapipe.status import SampleStatus
from infra.cluster import Cluster
from infra.progress import Progress

pytest.importorskip("img2dataset")
pytestmark = pytest.mark.slow

IMG2DATASET = Path(sys.executable).parent / "img2dataset"
ROWS_PER_SHARD = 25
IMAGE_SIZE = 64
# Smaller than IMAGE_SIZE in one or both sides, exactly as large, and such that a scaled side ends in .5.
SIZES = (
    (20, 30), (40, 300), (300, 40), (64, 64), (64, 90), (90, 64), (65, 64), (63, 200), (128, 201), (201, 128),
    (203, 128), (128, 128), (129, 127), (400, 300), (300, 400), (333, 77), (77, 333), (250, 251), (500, 375),
)  # fmt: skip
ENCODINGS = ("jpg", "png", "webp", "grey jpg", "grey png", "palette", "alpha", "progressive")
CAPTIONS = ("größer, schöner", "猫の写真", 'say "cheese"', "a\ttab and\na line", "🦊 עברית", "", None, "a dog")
PICTURES = 60
MISSING = frozenset({4, 17, 30, 59})
NO_PICTURE = frozenset({9, 26, 45})

# Mean absolute difference in grey levels. Both tools decode, scale and encode; on the pictures below, where shrunk
# pictures change by 6 levels and more from one pixel to the next, sound antialiasing filters part by at most 0.8
# (measured: area beside torch's antialiased bilinear), with a JPEG of quality 95 on top by 1.7, and the two filters
# for enlarging (Lanczos beside cubic) by 2.1. A picture that is off by a pixel differs by more than SEEN_AS_WRONG, and
# so does one with red and blue exchanged: the last test measures both.
TOLERANCE = 2.5
SEEN_AS_WRONG = 6.0


@dataclass(frozen=True)
class Built:
    """What a tool made of the list: its rows by key, and the stored bytes of the good ones."""

    rows: dict[str, dict[str, object]]
    images: dict[str, bytes]


@dataclass(frozen=True)
class UrlList:
    """The list's folder, where both tools build from it."""

    folder: Path

    def build_both(self, name: str, **options: object) -> tuple[Built, Built]:
        """img2dataset's result and ours, of the same options."""
        name = "".join(letter if letter.isalnum() else "-" for letter in name)
        return self._theirs(f"{name}-theirs", options), self._ours(f"{name}-ours", options)

    def _theirs(self, name: str, options: dict[str, object]) -> Built:
        fixed = {
            "url_list": self.folder / "urls.parquet",
            "output_folder": self.folder / name,
            "input_format": "parquet",
            "output_format": "webdataset",
            "url_col": "url",
            "caption_col": "caption",
            "processes_count": 1,
            "thread_count": 8,
            "enable_wandb": False,
        }
        values = fixed | common(options)
        with (self.folder / f"{name}.log").open("w") as log:
            subprocess.run(
                [IMG2DATASET, *(f"--{key}={value}" for key, value in values.items())],
                cwd=self.folder,
                env=os.environ | {"NO_ALBUMENTATIONS_UPDATE": "1"},  # it asks the internet for newer versions
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                timeout=120,
                check=True,
            )
        return read(self.folder / name)

    def _ours(self, name: str, options: dict[str, object]) -> Built:
        fixed = {
            "input": str(self.folder / "urls.parquet"),
            "output": str(self.folder / name),
            "retries": 0,
            "allow_private_addresses": ["127.0.0.1/32"],
        }
        config = BuildConfig.model_validate(fixed | common(options))
        check_build(config)
        with Progress(StringIO()) as progress:
            build(config, progress)
        return read(self.folder / name)


def common(options: dict[str, object]) -> dict[str, object]:
    """The options that both tools are given, under the names that they share."""
    fixed = {"number_sample_per_shard": ROWS_PER_SHARD, "image_size": IMAGE_SIZE, "resize_only_if_bigger": True}
    return fixed | options


def read(folder: Path) -> Built:
    rows, images = {}, {}
    for table in sorted(folder.glob("[0-9]*.parquet")):
        rows |= {row["key"]: row for row in pq.ParquetFile(table).read().to_pylist()}
        with tarfile.open(table.with_suffix(".tar")) as tar:
            for member in tar:
                key, ending = member.name.split(".")
                if ending in ("jpg", "png", "webp"):
                    images[key] = tar.extractfile(member).read()
                elif ending == "txt":
                    assert tar.extractfile(member).read().decode() == (rows[key]["caption"] or "")
    return Built(rows, images)


def smooth_picture(number: int) -> Image.Image:
    """A picture without detail finer than a stored pixel, so that sound filters agree on it."""
    width, height = SIZES[number % len(SIZES)]
    random = np.random.default_rng(number)
    short = min(width, height)
    cells = (max(3, 6 * height // short), max(3, 6 * width // short), 4)
    pixels = random.integers(0, 256, cells).astype(np.uint8)
    return Image.fromarray(pixels, "RGBA").resize((width, height), Image.Resampling.BICUBIC)


def encoded(number: int) -> bytes:
    """The picture in one of the forms that the web has."""
    picture, stream = smooth_picture(number), io.BytesIO()
    match ENCODINGS[number % len(ENCODINGS)]:
        case "jpg":
            picture.convert("RGB").save(stream, "JPEG", quality=92)
        case "progressive":
            picture.convert("RGB").save(stream, "JPEG", quality=92, progressive=True, subsampling=0)
        case "grey jpg":
            picture.convert("RGB").convert("L").save(stream, "JPEG", quality=92)
        case "png":
            picture.convert("RGB").save(stream, "PNG")
        case "grey png":
            picture.convert("RGB").convert("L").save(stream, "PNG")
        case "palette":
            picture.convert("RGB").quantize(200).save(stream, "PNG")
        case "alpha":
            picture.save(stream, "PNG")
        case "webp":
            picture.convert("RGB").save(stream, "WEBP", quality=92)
    return stream.getvalue()


@pytest.fixture(scope="module")
def url_list(tmp_path_factory: pytest.TempPathFactory, ray_cluster: Cluster) -> Iterator[UrlList]:
    folder = tmp_path_factory.mktemp("peers")
    with HostileWeb() as web:
        urls = [web.serve(f"/{number}", encoded(number)) for number in range(PICTURES)]
        for number in MISSING:
            urls[number] = f"{web.base}/missing/{number}"
        for number in NO_PICTURE:
            web.serve(f"/{number}", b"<html>no picture any more</html>")
        captions = [CAPTIONS[number % len(CAPTIONS)] for number in range(PICTURES)]
        list_ = {"url": urls, "caption": captions}
        pq.write_table(pa.table(list_), folder / "urls.parquet")
        yield UrlList(folder)


def status_class(status: str) -> str:
    """Our reason as img2dataset's status."""
    if status in ("success", "failed_to_download", "failed_to_resize"):
        return status
    return "failed_to_download" if SampleStatus(status).is_download_failure else "failed_to_resize"


FACTS = ("key", "url", "caption", "width", "height", "original_width", "original_height", "sha256")


def assert_same_rows(theirs: Built, ours: Built) -> None:
    assert sorted(ours.rows) == sorted(theirs.rows) and len(ours.rows) == PICTURES
    for key, row in theirs.rows.items():
        mine = ours.rows[key]
        assert {name: mine[name] for name in FACTS} == {name: row[name] for name in FACTS}
        assert status_class(str(mine["status"])) == row["status"]
    assert sorted(ours.images) == sorted(theirs.images)


def rgb(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB")).astype(np.float64)


def difference(one: np.ndarray, other: np.ndarray) -> float:
    """The mean absolute difference of two pictures, in grey levels."""
    assert one.shape == other.shape
    return float(np.abs(one - other).mean())


def assert_same_pixels(theirs: Built, ours: Built, tolerance: float = TOLERANCE) -> None:
    found = {key: difference(rgb(theirs.images[key]), rgb(ours.images[key])) for key in theirs.images}
    worst = max(found, key=lambda key: found[key])
    print(f"mean {np.mean(list(found.values())):.2f}, worst {found[worst]:.2f}")
    assert found[worst] <= tolerance, f"{worst} {theirs.rows[worst]}"


MODES = ("no", "border", "keep_ratio", "keep_ratio_largest", "center_crop")


@pytest.mark.parametrize("mode", MODES)
def test_every_resize_mode(url_list: UrlList, mode: str):
    theirs, ours = url_list.build_both(mode, resize_mode=mode)
    assert len(ours.images) == PICTURES - len(MISSING) - len(NO_PICTURE)
    assert_same_rows(theirs, ours)
    assert_same_pixels(theirs, ours)


@pytest.mark.parametrize("mode", ["border", "center_crop"])
def test_small_pictures_are_enlarged_alike(url_list: UrlList, mode: str):
    theirs, ours = url_list.build_both(f"{mode}-all", resize_mode=mode, resize_only_if_bigger=False)
    assert {(row["width"], row["height"]) for row in ours.rows.values() if row["status"] == "success"} == {(64, 64)}
    assert_same_rows(theirs, ours)
    assert_same_pixels(theirs, ours)


@pytest.mark.parametrize(("encode_format", "quality"), [("png", 9), ("webp", 90)])
def test_every_stored_format(url_list: UrlList, encode_format: str, quality: int):
    options = {"resize_mode": "keep_ratio", "encode_format": encode_format, "encode_quality": quality}
    theirs, ours = url_list.build_both(encode_format, **options)
    assert_same_rows(theirs, ours)
    assert_same_pixels(theirs, ours)
    formats = {Image.open(io.BytesIO(data)).format for data in ours.images.values()}
    assert formats == {encode_format.upper()}


def test_what_is_neither_scaled_nor_lossy_is_the_same_to_the_last_bit(url_list: UrlList):
    theirs, ours = url_list.build_both("exact", resize_mode="no", encode_format="png", encode_quality=1)
    assert_same_rows(theirs, ours)
    assert_same_pixels(theirs, ours, tolerance=0.5)  # alpha is rounded in another way
    for number in range(PICTURES):
        key = f"{number // ROWS_PER_SHARD:05d}{number % ROWS_PER_SHARD:02d}"
        if key in ours.images and ENCODINGS[number % len(ENCODINGS)] in ("png", "grey png", "palette"):
            assert np.array_equal(rgb(ours.images[key]), rgb(theirs.images[key]))


def test_bytes_that_need_no_change_are_kept_as_they_came(url_list: UrlList):
    theirs, ours = url_list.build_both("kept", resize_mode="keep_ratio", skip_reencode=True)
    assert_same_rows(theirs, ours)
    kept = {
        key
        for key, row in ours.rows.items()
        if row["status"] == "success" and ours.images[key] == encoded(int(str(row["url"]).rpartition("/")[2]))
    }
    assert len(kept) >= 5
    assert kept == {key for key in kept if ours.images[key] == theirs.images[key]}
    assert_same_pixels(theirs, ours)


FILTERS = {
    "min_image_size": {"min_image_size": 64},
    "max_image_area": {"max_image_area": 128 * 128},
    "max_aspect_ratio": {"max_aspect_ratio": 1.5},
    "all of them": {"min_image_size": 50, "max_image_area": 400 * 300, "max_aspect_ratio": 1.4},
}


@pytest.mark.parametrize(
    "name", [name if name == "all of them" else pytest.param(name, marks=pytest.mark.long) for name in FILTERS]
)
def test_every_filter(url_list: UrlList, name: str):
    theirs, ours = url_list.build_both(name, resize_mode="center_crop", **FILTERS[name])
    left_out = {"too_small", "too_big", "aspect_ratio"} & {str(row["status"]) for row in ours.rows.values()}
    assert len(left_out) == (3 if name == "all of them" else 1)
    assert_same_rows(theirs, ours)
    assert_same_pixels(theirs, ours)


def test_the_tolerance_tells_a_shift_by_one_pixel():
    assert SEEN_AS_WRONG > 2 * TOLERANCE
    for number in range(PICTURES):
        if min(SIZES[number % len(SIZES)]) <= IMAGE_SIZE:
            continue
        original = smooth_picture(number).convert("RGB")
        scale = IMAGE_SIZE / min(original.size)
        size = (round(original.width * scale), round(original.height * scale))
        stored = np.asarray(original.resize(size, Image.Resampling.BOX)).astype(np.float64)
        assert difference(stored[:, 1:], stored[:, :-1]) > SEEN_AS_WRONG
        assert difference(stored[1:], stored[:-1]) > SEEN_AS_WRONG
        assert difference(stored, stored[..., ::-1]) > SEEN_AS_WRONG
