"""The loader: the same batches for any number of ranks, from any step."""

import io
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from fault_proxy import FaultProxy
from object_store import ObjectStore
from PIL import Image
from small_datasets import make_dataset
from store_client import UseStore
from torch.overrides import TorchFunctionMode

from infra.errors import StorageFailed
from infra.storage import Storage, storage_of
from training.config import AugmentConfig, DataSource
from training.exclusion import unknown_keys
from training.loader import Batch, TrainingLoader, normalize
from training.mixture import Mixture, mixture_by_weight, one_dataset
from training.model import model_traits
from training.pictures import decode_picture
from training.sample_reader import SampleReader
from training.samples import Samples
from training.selection import Selection, columns_of, select

TRAITS = model_traits("diptych-tiny")


def batches(selection: Selection, first: int, last: int, rank: int = 0, ranks: int = 1, seed: int = 0) -> list[Batch]:
    return batches_of(Samples((selection,)), one_dataset(len(selection), seed), first, last, rank, ranks)


def batches_of(samples: Samples, order: Mixture, first: int, last: int, rank: int = 0, ranks: int = 1) -> list[Batch]:
    loader = TrainingLoader(
        samples,
        order,
        TRAITS,
        batch_size=22,
        rank=rank,
        ranks=ranks,
        augment=AugmentConfig(crop_scale=(0.6, 1.0)),
        threads=2,
    )
    with loader:
        return list(loader.batches(first, last))


@pytest.fixture(scope="module")
def selection(tmp_path_factory: pytest.TempPathFactory) -> Selection:
    return select(DataSource(path=make_dataset(tmp_path_factory.mktemp("data") / "shapes")))


def test_resumed_at_any_step_the_batches_are_the_same(selection: Selection):
    whole = batches(selection, 0, 12)
    assert len(whole) == 12 and all(batch.images.shape == (22, 3, 48, 48) for batch in whole)
    for step, batch in enumerate(batches(selection, 7, 12), 7):
        assert torch.equal(batch.images, whole[step].images) and torch.equal(batch.tokens, whole[step].tokens)


@pytest.mark.parametrize("ranks", [2, 3, 5])
def test_the_ranks_together_see_what_one_process_sees(selection: Selection, ranks: int):
    whole = batches(selection, 3, 6)
    parts = [batches(selection, 3, 6, rank, ranks) for rank in range(ranks)]
    for place, batch in enumerate(whole):
        assert torch.equal(torch.cat([part[place].images for part in parts]), batch.images)
        assert torch.equal(torch.cat([part[place].tokens for part in parts]), batch.tokens)


def test_another_epoch_crops_the_same_picture_otherwise(selection: Selection):
    # 173 samples in batches of 22: batch 8 begins the second epoch.
    first, second = batches(selection, 0, 7), batches(selection, 8, 15)
    assert not torch.equal(torch.cat([b.images for b in first]), torch.cat([b.images for b in second]))


def test_a_broken_picture_is_counted_and_replaced_in_the_same_way_each_time(tmp_path: Path):
    broken = frozenset({5, 6, 70})
    selection = select(DataSource(path=make_dataset(tmp_path / "broken", broken=broken)))
    once, again = batches(selection, 0, 8), batches(selection, 0, 8)
    # Samples 5 and 6 are both replaced by 7: two steps and one.
    assert sum(len(taken.broken) for batch in once for taken in batch.replacements) == 4
    assert all(torch.equal(a.images, b.images) for a, b in zip(once, again, strict=True))


def assert_same(found: list[Batch], expected: list[Batch]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one.images, other.images) and torch.equal(one.tokens, other.tokens)
        assert (one.digest, one.replacements) == (other.digest, other.replacements)


@pytest.mark.parametrize("ranks", [2, 3, 7])
def test_broken_pictures_are_replaced_alike_and_counted_once_whatever_the_number_of_ranks(tmp_path: Path, ranks: int):
    selection = select(DataSource(path=make_dataset(tmp_path / "broken", broken=frozenset({5, 6, 70, 191, 190}))))
    whole = batches(selection, 0, 10)
    parts = [batches(selection, 0, 10, rank, ranks) for rank in range(ranks)]
    assert sum(len(batch.replacements) for batch in whole) > 4
    for place, batch in enumerate(whole):
        found = [part[place] for part in parts]
        assert tuple(each for part in found for each in part.replacements) == batch.replacements
        assert sum(part.digest for part in found) % 2**64 == batch.digest
        assert torch.equal(torch.cat([part.images for part in found]), batch.images)


@pytest.mark.parametrize(
    ("rows", "ranks"),
    [
        pytest.param([30], 3, id="one shard for three ranks"),
        pytest.param([20, 20], 5, id="fewer shards than ranks"),
        pytest.param([60, 1, 7, 33], 3, id="uneven shards"),
        pytest.param([9, 1, 12], 2, id="a shard without a good sample"),
        pytest.param([4], 7, id="a dataset smaller than a batch, and ranks without one of its samples"),
    ],
)
def test_the_ranks_need_no_shards_of_their_own(tmp_path: Path, rows: list[int], ranks: int):
    selection = select(DataSource(path=make_dataset(tmp_path / "shapes", rows=rows)))
    whole = batches(selection, 1, 6)
    parts = [batches(selection, 1, 6, rank, ranks) for rank in range(ranks)]
    for place, batch in enumerate(whole):
        assert torch.equal(torch.cat([part[place].images for part in parts]), batch.images)
        assert torch.equal(torch.cat([part[place].tokens for part in parts]), batch.tokens)
        sizes = [len(part[place].images) for part in parts]
        assert max(sizes) - min(sizes) <= 1


def test_pictures_in_parquet_files_give_the_batches_of_those_in_tars(tmp_path: Path):
    made = {kind: make_dataset(tmp_path / kind, output_format=kind) for kind in ("webdataset", "parquet")}
    tars, tables = (batches(select(DataSource(path=place)), 5, 12, 1, 2) for place in made.values())
    assert not list((tmp_path / "parquet").glob("*.tar"))
    assert_same(tables, tars)


def copied(place: str, url: str) -> str:
    """The dataset in a store too."""
    source, target = storage_of(place), Storage(url)
    for entry in source.list_files(recursive=True):
        target.write_bytes(entry.path, source.read_bytes(entry.path))
    return url


BROKEN = frozenset({3, 64, 65})


@pytest.mark.parametrize("output_format", ["webdataset", "parquet"])
def test_a_dataset_in_a_store_gives_the_batches_of_a_local_one(store: ObjectStore, tmp_path: Path, output_format: str):
    place = make_dataset(tmp_path / "shapes", broken=BROKEN, output_format=output_format)
    remote = copied(place, store.url(f"loader-{output_format}"))
    local, far = (select(DataSource(path=where)) for where in (place, remote))
    for rank, ranks in ((0, 1), (2, 3)):
        assert_same(batches(far, 3, 14, rank, ranks), batches(local, 3, 14, rank, ranks))


def test_samples_that_come_several_times_are_read_ahead_as_often(store: ObjectStore, tmp_path: Path):
    place = make_dataset(tmp_path / "shapes", shards=2, rows=20)
    (tmp_path / "shapes/views").mkdir()
    view = pa.table({"shard": [0, 0, 1], "row": [3, 5, 0], "weight": [9, 1, 40]})
    pq.write_table(view, tmp_path / "shapes/views/some.parquet")
    remote = copied(place, store.url("loader-view"))
    local, far = (select(DataSource(path=where, view="some")) for where in (place, remote))
    assert_same(batches(far, 0, 9), batches(local, 0, 9))


def test_a_mixture_of_a_dataset_here_and_one_in_a_store_is_that_of_two_here(store: ObjectStore, tmp_path: Path):
    here, there = (make_dataset(tmp_path / name, shards=shards) for name, shards in (("here", 1), ("there", 2)))
    remote = copied(there, store.url("loader-mixed"))
    both, mixed = (Samples(tuple(select(DataSource(path=x)) for x in (here, where))) for where in (there, remote))
    order = mixture_by_weight([len(selection) for selection in both.selections], [1.0, 1.0], 4)
    assert_same(batches_of(mixed, order, 0, 12), batches_of(both, order, 0, 12))


def test_neighbours_come_in_one_request(object_store: ObjectStore, use_store: UseStore, tmp_path: Path):
    place = make_dataset(tmp_path / "shapes")
    with FaultProxy(object_store.endpoint) as proxy:
        use_store(object_store.environment(proxy.endpoint))
        far = select(DataSource(path=copied(place, object_store.url("loader-requests"))))
        proxy.requests.clear()
        assert len(batches(far, 0, 24)) == 24
        gets = [target for method, target in proxy.requests if method == "GET" and ".tar" in target]
    # 528 samples of three shards; each group that is read ahead of takes one request a shard.
    assert len(gets) <= 6


@pytest.mark.parametrize("attempts", [None, "1"])
def test_a_store_in_trouble_gives_the_same_batches(
    object_store: ObjectStore,
    use_store: UseStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    attempts: str | None,
):
    """Requests are tried again by boto3, and where it has given up, what is read ahead by the loader."""
    place = make_dataset(tmp_path / "shapes", broken=BROKEN)
    expected = batches(select(DataSource(path=place)), 2, 12)
    with FaultProxy(object_store.endpoint) as proxy:
        use_store(object_store.environment(proxy.endpoint))
        far = select(DataSource(path=copied(place, object_store.url(f"loader-trouble-{attempts}"))))
        if attempts is not None:
            use_store({"AWS_MAX_ATTEMPTS": attempts})
        for fault in (proxy.slow_down, proxy.reset):
            fault(times=2, method="GET", key_contains=".tar")
        proxy.cut_body(times=2, key_contains=".tar")
        found = batches(far, 2, 12)
        assert len(proxy.met) == 6
    # The broken pictures' neighbours are read again by themselves.
    assert_same(found, expected)


def test_a_store_that_stays_away_ends_the_training_with_its_error(
    object_store: ObjectStore, use_store: UseStore, tmp_path: Path
):
    place = make_dataset(tmp_path / "shapes", output_format="parquet")
    with FaultProxy(object_store.endpoint) as proxy:
        use_store(object_store.environment(proxy.endpoint) | {"AWS_MAX_ATTEMPTS": "2"})
        far = select(DataSource(path=copied(place, object_store.url("loader-away"))))
        proxy.refuse(60)
        with pytest.raises(StorageFailed, match="does not answer"):
            batches(far, 0, 2)


def test_pictures_normalise_to_the_models_range():
    pictures = torch.arange(3 * 256).reshape(1, 3, 16, 16).to(torch.uint8)
    values = normalize(pictures, TRAITS, torch.float32)
    mean, std = torch.tensor(TRAITS.mean), torch.tensor(TRAITS.std)
    back = (values * std.view(1, 3, 1, 1) + mean.view(1, 3, 1, 1)) * 255
    assert torch.allclose(back, pictures.float(), atol=1e-3)


class MadeTensors(TorchFunctionMode):
    """Counts the tensors that are made of Python's numbers."""

    count = 0

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += function is torch.tensor
        return function(*args, **(kwargs or {}))


def test_the_models_range_is_brought_to_a_device_once():
    pictures = torch.zeros(2, 3, 48, 48, dtype=torch.uint8)
    with torch.inference_mode():
        first = normalize(pictures, TRAITS, torch.float32)
    with MadeTensors() as made:
        again = normalize(pictures, TRAITS, torch.float32)
    assert made.count == 0 and torch.equal(first, again)


def test_excluded_keys_that_no_dataset_has_are_found(tmp_path: Path):
    places = [make_dataset(tmp_path / name, shards=2, rows=5) for name in ("one", "two")]
    samples = Samples(tuple(select(DataSource(path=place)) for place in places))
    keys = [key for _, _, (key,) in columns_of(samples.selections[0], ["key"])]
    mistyped = ("0000109", f"{keys[0]}9", "", "00001", "picture 7")
    assert unknown_keys(samples, [*keys[:3], *mistyped, keys[-1]]) == mistyped
    assert unknown_keys(samples, []) == ()


def test_an_excluded_sample_gives_its_place_to_the_next_and_all_others_stay(tmp_path: Path):
    selection = select(DataSource(path=make_dataset(tmp_path / "shapes")))
    reader = SampleReader(Samples((selection,)))
    shards, indices = selection.locate(np.array([5, 6], dtype=np.int64))
    with selection.dataset.open_shard(int(shards[0]), ["key"]) as shard:
        keys = [shard.samples["key"][int(index)].as_py() for index in indices]
    without = SampleReader(Samples((selection,)), frozenset(keys))
    for number in range(20):
        expected = reader.read(7 if number in (5, 6) else number)
        found = without.read(number)
        assert np.array_equal(found.picture, expected.picture)
        assert (found.caption, found.key, found.broken) == (expected.caption, expected.key, ())


def as_jpeg(pixels: np.ndarray, **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=90, **options)
    return stream.getvalue()


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("is_grey", [True, False])
def test_jpegs_have_the_pixels_that_opencv_finds(subsampling: int, is_grey: bool):
    pixels = cv2.resize(np.random.default_rng(0).integers(0, 256, (9, 11, 3), dtype=np.uint8), (61, 47))
    data = as_jpeg(pixels[:, :, 0]) if is_grey else as_jpeg(pixels, subsampling=subsampling)
    expected = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]
    assert np.array_equal(decode_picture(data), expected)


def test_a_turned_jpeg_stands_upright():
    pixels = np.zeros((20, 40, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    assert decode_picture(as_jpeg(pixels, exif=exif)).shape == (40, 20, 3)


def test_a_cut_jpeg_is_what_opencv_makes_of_it_and_nonsense_is_none():
    data = as_jpeg(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    for cut in (data[: len(data) // 2], data[:100], data[:2], b"", b"nonsense"):
        expected = cv2.imdecode(np.frombuffer(cut, np.uint8), cv2.IMREAD_COLOR) if cut else None
        found = decode_picture(cut)
        assert (found is None) == (expected is None)
        assert found is None or np.array_equal(found, expected[:, :, ::-1])


BOMBS = {"PNG": {}, "WEBP": {}, "TIFF": {"compression": "tiff_deflate"}, "GIF": {}, "JPEG": {}, "JPEG with EXIF": {}}


@pytest.mark.parametrize("kind", BOMBS)
def test_a_small_file_of_too_many_pixels_is_broken_in_every_format(kind: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("datapipe.pixel_limit.MAX_IMAGE_PIXELS", 40 * 50)
    options: dict[str, Any] = dict(BOMBS[kind])
    if kind == "JPEG with EXIF":
        options["exif"] = Image.Exif()
        options["exif"][0x0112] = 6
    for size, is_read in (((50, 40), True), ((50, 41), False)):
        stream = io.BytesIO()
        Image.new("RGB", size, (200, 100, 50)).save(stream, kind.split()[0], **options)
        assert (decode_picture(stream.getvalue()) is not None) == is_read
