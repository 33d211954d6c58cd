"""Proves from a run's records which samples its training used: each once an epoch, in the order that was planned."""

import json
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from infra.append_log import read_log
from infra.storage import Storage
from training.agreement import MASK
from training.config import TrainConfig
from training.mixture import Mixture
from training.order import batch_positions, digest_of
from training.records import REPLACEMENTS_FILE, StepMetrics, read_metrics
from training.samples import select_training

MAX_PROBLEMS = 20


@dataclass(frozen=True, slots=True)
class SampleProof:
    """Of `steps` steps, which make up `epochs` passes; `replaced` positions had another sample than their own.

    `problems` say where the records are not those of the planned order.
    """

    steps: int
    epochs: float
    replaced: int
    problems: tuple[str, ...]


def prove_samples(config: TrainConfig, run: Storage) -> SampleProof:
    """Compares what the loader recorded at each step with the order that follows from dataset and seed alone.

    The order is a permutation in each epoch; so samples that stand at its positions, step after step without a gap,
    were each used exactly once an epoch.
    """
    _, order = select_training(config)
    metrics = read_metrics(run)
    replaced = _replaced(run, metrics)
    problems = [*_gaps(metrics), *_mismatches(config, order, metrics, replaced)]
    epochs = len(metrics) * config.global_batch_size / order.places
    return SampleProof(len(metrics), epochs, len(replaced), tuple(problems[:MAX_PROBLEMS]))


def _gaps(metrics: list[StepMetrics]) -> Iterator[str]:
    for expected, step in zip(range(1, len(metrics) + 1), metrics, strict=True):
        if step.step != expected:
            yield f"step {expected:,} was not recorded"
            return


def _mismatches(
    config: TrainConfig, order: Mixture, metrics: list[StepMetrics], replaced: dict[int, int]
) -> Iterator[str]:
    for step in metrics:
        positions = batch_positions(step.step - 1, config.global_batch_size)
        numbers = order.samples_at(positions)
        others = [(place, replaced[position]) for place, position in enumerate(positions) if position in replaced]
        if others:
            places, taken = zip(*others, strict=True)
            numbers[list(places)] = np.asarray(taken)
        if digest_of(positions, numbers) & MASK != int(step.digest, 16):
            yield f"step {step.step:,} used other samples than those of its positions"


def _replaced(run: Storage, metrics: list[StepMetrics]) -> dict[int, int]:
    """Position → the sample that was taken in place of its own, in the doing of each step that counts."""
    attempts = {step.step: step.attempt for step in metrics}
    lines = read_log(run, REPLACEMENTS_FILE).split(b"\n")
    records = (json.loads(line) for line in lines if line.endswith(b"}"))
    return {
        record["position"]: record["number"] for record in records if attempts.get(record["step"]) == record["attempt"]
    }
