"""What a build writes is read by webdataset, pyarrow, DuckDB and pandas as by us."""

import io
import json
import tarfile
from collections import Counter
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest
import webdataset as wds
from hostile_web import HostileWeb
from pictures import picture
from PIL import Image

from datapipe.build import build, check_build
from datapipe.config import BuildConfig
from infra.cluster import Cluster
from infra.progress import Progress

ROWS = 47
ROWS_PER_SHARD = 20
MISSING, NO_PICTURE = 5, 23
IMAGE_SIZE = 48
CAPTIONS = ("größer, schöner", "猫の写真", 'say "cheese"', "a\ttab and\na line", "🦊 עברית", "", None)
GOOD = [row for row in range(ROWS) if row not in (MISSING, NO_PICTURE)]


def caption(row: int) -> str | None:
    return CAPTIONS[row % len(CAPTIONS)]


def key(row: int) -> str:
    return f"{row // ROWS_PER_SHARD:05d}{row % ROWS_PER_SHARD:02d}"


def stored_size(row: int) -> tuple[int, int]:
    """The picture of this row with its shorter side at IMAGE_SIZE; all of them are larger."""
    with Image.open(io.BytesIO(picture(row))) as original:
        scale = IMAGE_SIZE / min(original.size)
        return round(original.width * scale), round(original.height * scale)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, ray_cluster: Cluster) -> Iterator[Path]:
    """A folder with the same list built in both output formats, in `webdataset/` and `parquet/`."""
    folder = tmp_path_factory.mktemp("built")
    with HostileWeb() as web:
        urls = [web.serve(f"/{row}", picture(row)) for row in range(ROWS)]
        urls[MISSING] = f"{web.base}/missing"
        web.serve(f"/{NO_PICTURE}", b"<html>gone</html>")
        list_ = {"url": urls, "caption": [caption(row) for row in range(ROWS)], "number": range(ROWS)}
        pq.write_table(pa.table(list_), folder / "urls.parquet")
        for output_format in ("webdataset", "parquet"):
            config = BuildConfig.model_validate(
                {
                    "input": str(folder / "urls.parquet"),
                    "output": str(folder / output_format),
                    "output_format": output_format,
                    "number_sample_per_shard": ROWS_PER_SHARD,
                    "image_size": IMAGE_SIZE,
                    "retries": 0,
                    "allow_private_addresses": ["127.0.0.1/32"],
                }
            )
            check_build(config)
            with Progress(StringIO()) as progress:
                build(config, progress)
    yield folder


def shards(folder: Path, ending: str) -> list[str]:
    return sorted(str(path) for path in folder.glob(f"[0-9]*.{ending}"))


def test_webdataset_reads_every_good_sample_in_row_order(built: Path):
    samples = list(wds.WebDataset(shards(built / "webdataset", "tar"), shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == [key(row) for row in GOOD]
    assert [sample["txt"].decode() for sample in samples] == [caption(row) or "" for row in GOOD]
    facts = [json.loads(sample["json"]) for sample in samples]
    assert [fact["number"] for fact in facts] == GOOD
    assert [fact["caption"] for fact in facts] == [caption(row) for row in GOOD]
    assert {fact["status"] for fact in facts} == {"success"}
    for sample, fact, row in zip(samples, facts, GOOD, strict=True):
        with Image.open(io.BytesIO(sample["jpg"])) as image:
            assert image.format == "JPEG"
            assert image.size == (fact["width"], fact["height"]) == stored_size(row)


def test_webdataset_decodes_to_pixels_and_words(built: Path):
    decoded = wds.WebDataset(shards(built / "webdataset", "tar"), shardshuffle=False).decode("rgb8")
    pairs = list(decoded.to_tuple("jpg", "txt"))
    assert [pixels.shape[1::-1] for pixels, _ in pairs] == [stored_size(row) for row in GOOD]
    assert [words for _, words in pairs] == [caption(row) or "" for row in GOOD]


@pytest.mark.parametrize("output_format", ["webdataset", "parquet"])
def test_pyarrow_reads_one_row_for_every_row_of_the_list(built: Path, output_format: str):
    table = pads.dataset(shards(built / output_format, "parquet")).to_table().sort_by("key")
    assert table["key"].to_pylist() == [key(row) for row in range(ROWS)]
    assert table["caption"].to_pylist() == [caption(row) for row in range(ROWS)]
    assert table["number"].to_pylist() == list(range(ROWS))
    assert Counter(table["status"].to_pylist()) == {"success": len(GOOD), "http_404": 1, "not_an_image": 1}
    good = table.filter(pc.equal(table["status"], "success"))
    sizes = zip(good["width"].to_pylist(), good["height"].to_pylist(), strict=True)
    assert list(sizes) == [stored_size(row) for row in GOOD]


def test_the_byte_ranges_hold_the_pictures_of_the_tar(built: Path):
    folder = built / "webdataset"
    for tar_path in shards(folder, "tar"):
        table = pq.read_table(tar_path.replace(".tar", ".parquet"))
        data = Path(tar_path).read_bytes()
        with tarfile.open(tar_path) as tar:
            for sample in table.to_pylist():
                if sample["status"] != "success":
                    assert sample["image_offset"] is None and sample["image_length"] is None
                    continue
                member = tar.extractfile(f"{sample['key']}.jpg")
                assert member is not None
                begin, end = sample["image_offset"], sample["image_offset"] + sample["image_length"]
                assert data[begin:end] == member.read()


def test_duckdb_counts_the_reasons(built: Path):
    for output_format in ("webdataset", "parquet"):
        glob = str(built / output_format / "[0-9]*.parquet")
        counts = duckdb.execute("SELECT status, count(*) FROM read_parquet(?) GROUP BY status", [glob]).fetchall()
        assert dict(counts) == {"success": len(GOOD), "http_404": 1, "not_an_image": 1}
        marked = Counter[str]()
        for marker in (built / output_format).glob("*_stats.json"):
            marked.update(json.loads(marker.read_bytes())["status_dict"])
        assert dict(counts) == dict(marked)


def test_duckdb_selects_by_size_and_reads_the_pictures(built: Path):
    rows = duckdb.execute(
        "SELECT number, caption, width, height, jpg FROM read_parquet(?) WHERE width > height ORDER BY key",
        [str(built / "parquet" / "[0-9]*.parquet")],
    ).fetchall()
    wide = [row for row in GOOD if stored_size(row)[0] > stored_size(row)[1]]
    assert [row[0] for row in rows] == wide and len(wide) > 10
    for number, words, width, height, data in rows:
        assert words == caption(number)
        with Image.open(io.BytesIO(data)) as image:
            assert image.size == (width, height) == stored_size(number)


def test_pandas_reads_both_formats_alike(built: Path):
    frames = {
        name: pd.concat([pd.read_parquet(path) for path in shards(built / name, "parquet")], ignore_index=True)
        for name in ("webdataset", "parquet")
    }
    common = [name for name in frames["webdataset"] if name in frames["parquet"] and name != "image_offset"]
    assert {"key", "url", "caption", "status", "width", "height", "sha256", "number"} <= set(common)
    pd.testing.assert_frame_equal(frames["webdataset"][common], frames["parquet"][common])
    assert frames["parquet"]["jpg"].notna().tolist() == [row in GOOD for row in range(ROWS)]
    assert frames["webdataset"]["image_offset"].notna().tolist() == [row in GOOD for row in range(ROWS)]


def test_both_formats_hold_the_same_pictures(built: Path):
    in_parquet = pads.dataset(shards(built / "parquet", "parquet")).to_table(columns=["key", "jpg"]).to_pylist()
    in_tar = {s["__key__"]: s["jpg"] for s in wds.WebDataset(shards(built / "webdataset", "tar"), shardshuffle=False)}
    assert {row["key"]: row["jpg"] for row in in_parquet if row["jpg"] is not None} == in_tar
