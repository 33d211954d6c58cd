"""Saves weights as a checkpoint of one rank, as a training's writer does."""

from collections.abc import Mapping

from torch import Tensor

from infra.storage import Storage
from training.checkpoint import CheckpointState, TensorKind, checkpoint_path
from training.checkpoint_keep import KeepRule
from training.checkpoint_part import CheckpointPart, PartName
from training.checkpoint_writer import CheckpointWriter, WriterSettings


def save_weights(run: Storage, state: CheckpointState, weights: Mapping[str, Tensor]) -> str:
    """Writes the checkpoint and returns its path."""
    part = CheckpointPart()
    part.tensors[TensorKind.PARAMETERS].update(weights)
    writer = CheckpointWriter(run, PartName("0001", 0, 1), WriterSettings(KeepRule(9), 20.0), say=print)
    writer.begin(state, part)
    writer.finish()
    return checkpoint_path(state.step)
