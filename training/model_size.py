"""Counts a model's parameters by tower, without memory for them."""

from dataclasses import dataclass

from torch import nn

from training.architectures import architecture_of, build_without_memory


@dataclass(frozen=True, slots=True)
class ModelSize:
    """Numbers of parameters; `scalars` are the logit scale and, where it has one, the bias.

    `embedding_width` is D. CoCa's captioning decoder is not counted: it is not built and not trained.
    """

    image: int
    text: int
    scalars: int
    embedding_width: int
    context_length: int

    @property
    def total(self) -> int:
        """All that is trained."""
        return self.image + self.text + self.scalars


def size_of(name: str) -> ModelSize:
    """The size of a model by name. Raises ConfigError for an unknown one."""
    architecture = architecture_of(name)
    counts = parameters_by_tower(build_without_memory(name))
    return ModelSize(
        counts["image"],
        counts["text"],
        counts["scalars"],
        int(architecture["embed_dim"]),
        int(architecture["text_cfg"].get("context_length", 77)),
    )


def tower_of(parameter: str) -> str:
    """image, text or scalars, by the parameter's name."""
    if parameter.startswith("visual."):
        return "image"
    return "scalars" if parameter.startswith("logit_") else "text"


def parameters_by_tower(model: nn.Module) -> dict[str, int]:
    """Tower → number of parameters."""
    counts = {"image": 0, "text": 0, "scalars": 0}
    for name, parameter in model.named_parameters():
        counts[tower_of(name)] += parameter.numel()
    return counts
