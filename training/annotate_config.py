"""The `annotate` section of the config."""

import re
from typing import Annotated

from pydantic import AfterValidator, Field, field_validator, model_validator

from datapipe.curate_config import PHASH
from infra.settings import FiniteSettings, Place
from training.config import weights_place

COLUMN_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,99}")


class ClipScoreConfig(FiniteSettings):
    """How well each caption fits its picture: the cosine of their embeddings by a CLIP model."""

    pretrained: Annotated[str, AfterValidator(weights_place)]
    """The model's weights: our checkpoint, a file, a Hugging Face folder (./NAME) or an open_clip tag."""
    model: str | None = None
    """Any open_clip name, or a small one of ours; null: the checkpoint's own."""
    caption_col: str = "caption"
    """The column with the captions, of text or of lists of text, of which the first one counts."""
    allow_activation_mismatch: bool = False
    """Whether weights made with QuickGELU may go into a model with GELU, or the reverse."""


class AnnotateConfig(FiniteSettings):
    """Dataset → columns: values for each picture, kept beside the shards, which stay as they are."""

    data: Place
    """The dataset's folder."""
    phash: bool = False
    """Whether to make the column phash: 64 bits that are alike for pictures that look alike."""
    clip_scores: dict[str, ClipScoreConfig] = {}
    """CLIP scores by the name of their column, e.g. {clip_score: {model: ViT-B-32, pretrained: ./b32.safetensors}}."""
    batch_size: Annotated[int, Field(ge=1)] = 256
    """Pictures that are encoded at once."""
    tasks: Annotated[int, Field(ge=1)] | None = None
    """Shards that are annotated at once; null: one per core of the cluster, or per GPU for CLIP scores."""
    use_gpu: bool | None = None
    """Whether CLIP scores are computed on GPUs; null: if the cluster has any."""

    @field_validator("clip_scores")
    @classmethod
    def _are_column_names(cls, value: dict[str, ClipScoreConfig]) -> dict[str, ClipScoreConfig]:
        for name in value:
            if not COLUMN_NAME.fullmatch(name) or name in (PHASH, "key", "shard", "row"):
                raise ValueError(f"got the name {name!r}; want letters, digits and _, a letter first, and not {PHASH}")
        return value

    @model_validator(mode="after")
    def _names_something(self) -> "AnnotateConfig":
        if not self.phash and not self.clip_scores:
            raise ValueError("got neither phash nor clip_scores; want one or both")
        return self
