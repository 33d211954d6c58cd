"""What a build may keep of a picture or change in it: EXIF, hashes, colour profiles."""

import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hostile_web import HostileWeb
from PIL import Image, ImageCms

from datapipe.config import BuildConfig
from datapipe.image import StoredImage, process_image
from datapipe.plan import Piece, ShardPlan
from datapipe.shard_task import build_shard


def with_exif() -> bytes:
    exif = Image.Exif()
    exif[0x010F] = "A maker"
    exif[0x0112] = 1
    exif.get_ifd(0x8769)[0x829D] = 2.8
    stream = io.BytesIO()
    Image.new("RGB", (60, 40), "red").save(stream, "JPEG", exif=exif)
    return stream.getvalue()


def config(**values: object) -> BuildConfig:
    return BuildConfig.model_validate({"input": "", "output": "", **values})


def stored(body: bytes, **values: object) -> StoredImage:
    result = process_image(body, config(**values))
    assert isinstance(result, StoredImage)
    return result


def test_exif_is_kept_as_json_or_not_at_all():
    tags = json.loads(stored(with_exif()).exif or "")
    assert tags["Image Make"] == "A maker" and tags["EXIF FNumber"].startswith("2.8")
    assert stored(with_exif(), extract_exif=False).exif is None


@pytest.mark.parametrize("kind", ["md5", "sha256", "sha512", None])
def test_the_hash_of_the_downloaded_bytes_is_a_column_of_its_name(web: HostileWeb, tmp_path: Path, kind: str | None):
    urls = [web.serve("/a.jpg", with_exif()), web.base + "/none"]
    pq.write_table(pa.table({"url": urls, "caption": urls}), tmp_path / "urls.parquet")
    settings = {"compute_hash": kind, "extract_exif": False, "allow_private_addresses": ["127.0.0.0/8"], "retries": 0}
    plan = ShardPlan(0, (Piece(str(tmp_path / "urls.parquet"), 0, 2),))
    build_shard(plan, config(output=str(tmp_path), **settings), lambda _: None)
    table = pq.read_table(tmp_path / "00000.parquet")
    assert {"md5", "sha256", "sha512", "exif"} & set(table.column_names) == ({kind} if kind else set())
    if kind is not None:
        assert table[kind].to_pylist() == [hashlib.new(kind, with_exif()).hexdigest(), None]


def wide_gamut(mode: str) -> bytes:
    """A picture whose profile swaps red and blue: what it shows can't be mistaken."""
    srgb = ImageCms.createProfile("sRGB")
    profile = bytearray(ImageCms.ImageCmsProfile(srgb).tobytes())
    red, blue = profile.index(b"rXYZ", 128), profile.index(b"bXYZ", 128)
    profile[red : red + 4], profile[blue : blue + 4] = b"bXYZ", b"rXYZ"
    stream = io.BytesIO()
    Image.new(mode, (64, 64), (200, 30, 30)).save(stream, "PNG", icc_profile=bytes(profile))
    return stream.getvalue()


def mean_colour(image: StoredImage) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(image.data)), dtype=float).mean(axis=(0, 1))


def test_a_colour_profile_is_converted_when_asked_for():
    plain = mean_colour(stored(wide_gamut("RGB"), encode_format="png", encode_quality=1))
    converted = mean_colour(stored(wide_gamut("RGB"), encode_format="png", encode_quality=1, icc="srgb"))
    assert plain == pytest.approx([200, 30, 30])
    assert converted[2] > 180 and converted[0] < 60


def test_a_damaged_profile_leaves_the_picture_as_it_is():
    stream = io.BytesIO()
    Image.new("RGB", (64, 64), (200, 30, 30)).save(stream, "JPEG", icc_profile=b"no profile at all")
    assert mean_colour(stored(stream.getvalue(), icc="srgb")) == pytest.approx([200, 30, 30], abs=4)
