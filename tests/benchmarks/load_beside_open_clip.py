"""Loads the same shards with our loader and with open_clip's in one run and prints the ratio of their speeds.

    python tests/benchmarks/load_beside_open_clip.py [--photographs FOLDER] [--samples 6000] [--batch 256] [--rounds 3]

Pictures of 256 pixels (short side, JPEG quality 95), crops of 0.9 to 1.0 to 224 pixels, captions to tokens; both on all
cores of the machine: ours with as many threads, open_clip's (open_clip_train.data.get_wds_dataset, its own training
transform) with as many worker processes. Ours ends in uint8, which is normalised on the device; open_clip's in floats.
"""

import argparse
import io
import os
import tempfile
import time
from argparse import Namespace
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import open_clip
import open_clip_train.data
import pyarrow as pa
from PIL import Image
from webdataset.tariterators import tar_file_expander

from datapipe.build import build_manifest
from datapipe.config import BuildConfig
from datapipe.dataset import MANIFEST_FILE
from datapipe.outcome import RowOutcome
from datapipe.shard import ShardWriter
from datapipe.status import SampleStatus
from infra.storage import storage_of
from training.config import AugmentConfig, DataSource
from training.loader import TrainingLoader
from training.mixture import one_dataset
from training.model import model_traits
from training.samples import Samples
from training.selection import select

MODEL = "ViT-B-32"
SHARD_ROWS = 1000
DISTINCT = 400
WORDS = ["a", "the", "of", "on", "red", "small", "photo", "dog", "street", "people", "window", "mountain", "two", "man"]


def main() -> None:
    """Prints images a second of both, best of the rounds, and their ratio."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--photographs", type=Path, help="a folder of pictures; default: generated ones")
    parser.add_argument("--samples", type=int, default=6000)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "data")
        shards = make_dataset(folder, list(pictures(options.photographs)), options.samples)
        ours, theirs = 0.0, 0.0
        for _ in range(options.rounds):
            ours = max(ours, our_speed(folder, options.batch))
            theirs = max(theirs, open_clips_speed(folder, shards, options.batch))
    print(f"diptych {ours:,.0f} images/s, open_clip {theirs:,.0f} images/s, ratio {ours / theirs:.2f}")


def pictures(folder: Path | None) -> Iterator[bytes]:
    """JPEGs whose short side is 256 pixels."""
    chance = np.random.default_rng(0)
    sources = sorted(folder.glob("*.jpg"))[:DISTINCT] if folder else [None] * DISTINCT
    for source in sources:
        if source is not None:
            picture = Image.open(source).convert("RGB")
        else:
            coarse = Image.fromarray(chance.integers(0, 255, (24, 32, 3)).astype(np.uint8)).resize((341, 256))
            grain = chance.normal(0, 10, (256, 341, 3))
            picture = Image.fromarray((np.asarray(coarse) + grain).clip(0, 255).astype(np.uint8))
        factor = 256 / min(picture.size)
        picture = picture.resize((round(picture.width * factor), round(picture.height * factor)), Image.BICUBIC)
        stream = io.BytesIO()
        picture.save(stream, "JPEG", quality=95)
        yield stream.getvalue()


def make_dataset(folder: Path, images: list[bytes], samples: int) -> int:
    """Writes shards of 1,000 samples; returns their number."""
    folder.mkdir()
    config = BuildConfig(input="unused.parquet", output=str(folder), number_sample_per_shard=SHARD_ROWS)
    output, chance, stats = storage_of(folder), np.random.default_rng(1), []
    shards = samples // SHARD_ROWS
    for shard in range(shards):
        captions = [" ".join(chance.choice(WORDS, chance.integers(4, 14))) for _ in range(SHARD_ROWS)]
        urls = [f"http://example.org/{shard}/{row}.jpg" for row in range(SHARD_ROWS)]
        with ShardWriter(output, shard, pa.table({"url": urls, "caption": captions}), config) as writer:
            for row in range(SHARD_ROWS):
                image = images[int(chance.integers(len(images)))]
                writer.add(
                    row, RowOutcome(SampleStatus.SUCCESS, "", len(image), 256, 256, 256, 256, "{}", "0" * 64), image
                )
            stats.append(writer.commit())
    manifest = build_manifest(stats, {"output_format": "webdataset", "encode_format": "jpg"})
    output.write_bytes(MANIFEST_FILE, manifest.to_json())
    return shards


def our_speed(folder: Path, batch: int) -> float:
    """Images a second over one epoch, the start of the loader left out."""
    selection = select(DataSource(path=str(folder)))
    loader = TrainingLoader(
        Samples((selection,)),
        one_dataset(len(selection), seed=0),
        model_traits(MODEL),
        batch_size=batch,
        rank=0,
        ranks=1,
        augment=AugmentConfig(),
        threads=os.cpu_count() or 1,
    )
    with loader:
        return speed(loader.batches(0, len(selection) // batch), batch)


def open_clips_speed(folder: Path, shards: int, batch: int) -> float:
    """The same of open_clip's loader."""
    arguments = Namespace(
        train_data=f"{folder}/{{00000..{shards - 1:05d}}}.tar",
        train_num_samples=shards * SHARD_ROWS,
        train_data_upsampling_factors=None,
        dataset_resampled=False,
        workers=os.cpu_count() or 1,
        batch_size=batch,
        world_size=1,
        seed=0,
    )
    # This webdataset marks the ends of tar files, which open_clip 3.3 does not know.
    open_clip_train.data.tar_file_expander = partial(tar_file_expander, eof_value=None)
    transform = open_clip.image_transform(224, is_train=True, mean=None, std=None)
    info = open_clip_train.data.get_wds_dataset(arguments, transform, True, tokenizer=open_clip.get_tokenizer(MODEL))
    return speed(iter(info.dataloader), batch)


def speed(batches: Iterator[object], batch: int) -> float:
    """From the first batch on: both have threads or processes to start."""
    next(batches)
    began, count = time.perf_counter(), 0
    for _ in batches:
        count += batch
    return count / (time.perf_counter() - began)


if __name__ == "__main__":
    main()
