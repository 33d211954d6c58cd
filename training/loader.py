"""Reads, decodes and augments batches in threads, ahead of the training; the same ones at every start."""

from collections import OrderedDict, deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from datapipe.dataset import Dataset, ShardReader
from infra.errors import CorruptData
from training.augment import STREAMS, augment
from training.config import AugmentConfig
from training.model import ModelTraits, Tokenizer
from training.order import SampleOrder, keyed_numbers
from training.pictures import Pixels, center_square, decode_picture
from training.selection import Selection

OPEN_SHARDS = 64
BATCHES_AHEAD = 2
TASK_SAMPLES = 16  # of a batch that one thread takes at once: few enough to spread a small batch
MAX_REPLACEMENTS = 100  # broken neighbours in a row: past this it is the dataset that is broken

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Batch:
    """This rank's part of one global batch.

    images: (n, 3, side, side) uint8; tokens: (n, context) int64. `replaced` pictures were broken.
    """

    images: Tensor
    tokens: Tensor
    replaced: int


@dataclass(frozen=True, slots=True)
class _Pending:
    """A batch whose pictures are being filled in, by several tasks; each gives its tokens and what it replaced."""

    images: npt.NDArray[np.uint8]
    tasks: list[Future[tuple[Tensor, int]]]

    def wait(self) -> Batch:
        parts = [task.result() for task in self.tasks]
        tokens = torch.cat([tokens for tokens, _ in parts])
        return Batch(torch.from_numpy(self.images), tokens, sum(replaced for _, replaced in parts))


class SampleReader:
    """Pictures and captions of a selection by sample number, from several threads."""

    def __init__(self, selection: Selection, exclude: frozenset[str] = frozenset()) -> None:
        self._selection = selection
        self._exclude = exclude
        self._open = _OpenShards(selection.dataset)

    def read(self, number: int) -> tuple[Pixels, str, int]:
        """The decoded picture, its caption, and how many broken neighbours were passed over to find one.

        A broken picture is replaced by the next sample in the dataset's order, which is the same at every start; so is
        an excluded one, which does not count as broken.
        """
        broken = 0
        for step in range(MAX_REPLACEMENTS):
            reader, index = self._place((number + step) % len(self._selection))
            if self._exclude and reader.samples["key"][index].as_py() in self._exclude:
                continue
            picture = decode_picture(reader.image(index))
            if picture is not None:
                return picture, str(reader.samples["caption"][index].as_py()), broken
            broken += 1
        raise CorruptData(
            f"{MAX_REPLACEMENTS} pictures in a row cannot be decoded in {self._selection.dataset.storage.url}, "
            "or are excluded.",
            "Single broken pictures are replaced by their neighbours.",
            "Look at the dataset with `diptych verify`.",
        )

    def _place(self, number: int) -> tuple[ShardReader, int]:
        shards, indices = self._selection.locate(np.asarray([number], dtype=np.int64))
        return self._open.get(int(shards[0])), int(indices[0])


class TrainingLoader:
    """The training's batches from any step on. A `with` block ends its threads."""

    def __init__(
        self,
        selection: Selection,
        order: SampleOrder,
        traits: ModelTraits,
        *,
        batch_size: int,
        rank: int,
        ranks: int,
        augment: AugmentConfig,
        threads: int,
        exclude: frozenset[str] = frozenset(),
    ) -> None:
        self._order = order
        self._traits = traits
        self._slice = (batch_size, rank, ranks)
        self._augment = augment
        self._tokenize = Tokenizer(traits.name)
        self._reader = SampleReader(selection, exclude)
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="loader")

    def __enter__(self) -> "TrainingLoader":
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown(cancel_futures=True)

    def batches(self, first: int, last: int) -> Iterator[Batch]:
        """This rank's part of the global batches `first` to `last` − 1."""
        under_way: deque[_Pending] = deque()
        for number in range(first, last + BATCHES_AHEAD):
            if number < last:
                under_way.append(self._submit(number))
            if len(under_way) > BATCHES_AHEAD or number >= last:
                if not under_way:
                    return
                yield under_way.popleft().wait()

    def _submit(self, number: int) -> _Pending:
        positions = self._order.batch(number, *self._slice)
        samples = self._order.samples_at(positions)
        chances = keyed_numbers(self._order.seed, self._order.epoch_of(positions), samples, STREAMS)
        side = self._traits.image_size
        images = np.empty((len(samples), 3, side, side), dtype=np.uint8)
        parts = [slice(start, start + TASK_SAMPLES) for start in range(0, len(samples), TASK_SAMPLES)]
        return _Pending(
            images,
            [self._threads.submit(self._load, images[part], samples[part], chances[part]) for part in parts],
        )

    def _load(
        self, images: npt.NDArray[np.uint8], samples: Integers, chances: npt.NDArray[np.float64]
    ) -> tuple[Tensor, int]:
        """Fills in the pictures (k, 3, side, side) of some samples; their tokens, and how many were replaced."""
        captions, passed_over = [], 0
        for image, sample, numbers in zip(images, samples, chances, strict=True):
            picture, caption, replaced = self._reader.read(int(sample))
            image[:] = augment(picture, self._traits.image_size, self._augment, numbers).transpose(2, 0, 1)
            captions.append(caption)
            passed_over += replaced
        return self._tokenize(captions), passed_over


def evaluation_pictures(selection: Selection, numbers: Integers, traits: ModelTraits) -> Tensor:
    """The pictures of these samples, centre-cropped: (n, 3, side, side) uint8."""
    reader = SampleReader(selection)
    return stack_pictures([center_square(reader.read(int(number))[0], traits.image_size) for number in numbers])


def stack_pictures(pictures: list[Pixels]) -> Tensor:
    """(n, 3, side, side) uint8 from pictures of (side, side, 3)."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()


def normalize(images: Tensor, traits: ModelTraits, dtype: torch.dtype) -> Tensor:
    """uint8 pictures as the model wants them, on the device that they are on: (n, 3, side, side)."""
    mean = torch.tensor(traits.mean, device=images.device).view(1, 3, 1, 1) * 255
    std = torch.tensor(traits.std, device=images.device).view(1, 3, 1, 1) * 255
    return ((images.float() - mean) / std).to(dtype)


class _OpenShards:
    """The shards read last, kept open; one that is dropped closes when its last reader is done."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._readers: OrderedDict[int, ShardReader] = OrderedDict()
        self._lock = Lock()

    def get(self, shard: int) -> ShardReader:
        with self._lock:
            if shard not in self._readers:
                self._readers[shard] = self._dataset.open_shard(shard, ["key", "caption"])
                if len(self._readers) > OPEN_SHARDS:
                    self._readers.popitem(last=False)
            self._readers.move_to_end(shard)
            return self._readers[shard]
