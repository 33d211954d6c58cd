"""The loader: the same batches for any number of ranks, from any step."""

import io
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from small_datasets import make_dataset

from training.config import AugmentConfig, DataSource
from training.loader import Batch, TrainingLoader, evaluation_pictures, normalize
from training.mixture import one_dataset
from training.model import model_traits
from training.pictures import decode_picture
from training.sample_reader import SampleReader
from training.samples import Samples
from training.selection import Selection, select

TRAITS = model_traits("diptych-tiny")


def batches(selection: Selection, first: int, last: int, rank: int = 0, ranks: int = 1, seed: int = 0) -> list[Batch]:
    loader = TrainingLoader(
        Samples((selection,)),
        one_dataset(len(selection), seed),
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


def test_evaluation_pictures_are_in_the_selections_order_and_normalise_to_the_models_range(selection: Selection):
    import numpy as np

    pictures = evaluation_pictures(selection, np.arange(5), TRAITS)
    assert pictures.shape == (5, 3, 48, 48) and pictures.dtype == torch.uint8
    values = normalize(pictures, TRAITS, torch.float32)
    mean, std = torch.tensor(TRAITS.mean), torch.tensor(TRAITS.std)
    back = (values * std.view(1, 3, 1, 1) + mean.view(1, 3, 1, 1)) * 255
    assert torch.allclose(back, pictures.float(), atol=1e-3)


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
