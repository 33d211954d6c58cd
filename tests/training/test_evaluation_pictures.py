"""Pictures for evaluation: in the order asked for, the same as one after the other, and no thread left."""

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from object_store import ObjectStore
from small_datasets import make_dataset
from store_client import UseStore

from infra.errors import CorruptData
from infra.storage import Storage, storage_of
from training.config import DataSource
from training.evaluation_pictures import evaluation_pictures
from training.model import model_traits
from training.pictures import fill_planes, model_square
from training.sample_reader import SampleReader
from training.samples import Samples
from training.selection import Selection, select

TRAITS = model_traits("diptych-tiny")
# Uneven, backwards, with one twice.
BATCHES = [np.array(numbers) for numbers in ([30, 3, 3], [0], [44, 43, 42, 41, 40], [7, 20], [1], [2])]


def one_after_the_other(selection: Selection) -> list[torch.Tensor]:
    reader, found = SampleReader(Samples((selection,))), []
    for numbers in BATCHES:
        images = np.empty((len(numbers), 3, 48, 48), np.uint8)
        for planes, number in zip(images, numbers, strict=True):
            fill_planes(planes, model_square(reader.read(int(number)).picture, 48, TRAITS.resize_mode))
        found.append(torch.from_numpy(images))
    return found


def own_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(("evaluation", "read-ahead"))]


def test_batches_come_in_order_with_the_pixels_of_reading_one_after_the_other(tmp_path: Path):
    selection = select(DataSource(path=make_dataset(tmp_path / "shapes", broken=frozenset({3, 41}))))
    found = list(evaluation_pictures(selection, BATCHES, TRAITS))
    assert len(found) == len(BATCHES) and all(map(torch.equal, found, one_after_the_other(selection)))
    assert not own_threads()


def test_from_object_storage_they_are_the_same(object_store: ObjectStore, use_store: UseStore, tmp_path: Path):
    place = make_dataset(tmp_path / "shapes")
    use_store(object_store.environment())
    far = Storage(object_store.url("evaluation-pictures"))
    for entry in storage_of(tmp_path / "shapes").list_files():
        far.write_bytes(entry.path, (tmp_path / "shapes" / entry.path).read_bytes())
    found = list(evaluation_pictures(select(DataSource(path=far.url)), BATCHES, TRAITS))
    assert all(map(torch.equal, found, one_after_the_other(select(DataSource(path=place)))))
    assert not own_threads()


def test_threads_end_where_not_all_batches_are_taken(tmp_path: Path):
    pictures = evaluation_pictures(select(DataSource(path=make_dataset(tmp_path / "shapes"))), BATCHES, TRAITS)
    next(pictures)
    assert own_threads()
    pictures.close()
    assert not own_threads()


def test_an_error_comes_out_and_leaves_no_thread(tmp_path: Path):
    selection = select(DataSource(path=make_dataset(tmp_path / "shapes", broken=frozenset(range(200)))))
    with pytest.raises(CorruptData, match="cannot be decoded"):
        list(evaluation_pictures(selection, BATCHES, TRAITS))
    assert not own_threads()
