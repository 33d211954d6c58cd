"""Makes the model of a checkpoint, as it is evaluated and exported."""

from dataclasses import dataclass

from torch import nn

from infra.storage import Storage
from training.checkpoint import CheckpointState, TensorKind, load_tensors, read_state, require_whole
from training.config import LossName
from training.model import ModelTraits, create_model, model_traits
from training.weight_facts import square_mode


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """A checkpoint's model on the CPU in evaluation mode, what it wants to be fed, and the checkpoint's state."""

    module: nn.Module
    traits: ModelTraits
    state: CheckpointState


def load_model(checkpoint: Storage, *, use_average: bool) -> TrainedModel:
    """Reads the checkpoint. use_average: the weights' moving average, where it has one.

    Raises CorruptData when a byte of it is not as it was written.
    """
    require_whole(checkpoint)
    state = read_state(checkpoint)
    average = load_tensors(checkpoint, TensorKind.AVERAGE) if use_average else {}
    weights = average or load_tensors(checkpoint, TensorKind.PARAMETERS)
    module = create_model(state.model, LossName(state.loss), seed=0)
    module.load_state_dict(weights | load_tensors(checkpoint, TensorKind.BUFFERS))
    settings = state.settings
    traits = model_traits(state.model, settings.get("mean"), settings.get("std"), square_mode(settings))
    return TrainedModel(module.eval(), traits, state)
