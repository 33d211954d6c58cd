"""The `curate` section of the config."""

from typing import Annotated

from pydantic import Field, model_validator

from infra.settings import FiniteSettings, Place

PHASH = "phash"  # the annotation with perceptual hashes
MAX_DISTANCE = 6  # of 64 bits; pictures further apart are other ones, and to look for them would take long


class Range(FiniteSettings):
    """From and to, both included; null: no limit."""

    min: float | None = None
    """The smallest value that is taken."""
    max: float | None = None
    """The greatest value that is taken."""

    @model_validator(mode="after")
    def _is_a_range(self) -> "Range":
        if self.min is None and self.max is None:
            raise ValueError("got neither min nor max")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"got min {self.min} and max {self.max}; want the smaller as min")
        return self


Wanted = Range | str | int | float | bool


class DeduplicateConfig(FiniteSettings):
    """Of rows that are alike, one is kept."""

    column: str = PHASH
    """phash, for pictures that look alike; or any column (sha256, url, caption) for rows with the same value."""
    max_distance: Annotated[int, Field(ge=0, le=MAX_DISTANCE)] = 0
    """Bits of the perceptual hash in which two pictures may differ and still count as alike."""
    prefer: str | None = None
    """Of rows that are alike, the one with the greatest value of this column is kept; null: the first one."""


class TopConfig(FiniteSettings):
    """The best share of the rows by a column."""

    column: str
    """A column of numbers; rows without one are left out."""
    share: Annotated[float, Field(gt=0, le=1)]
    """How much of the rows that are left is kept: those with the greatest values."""


class CurateConfig(FiniteSettings):
    """Dataset → view: which of its samples are used. First `where`, then `deduplicate`, then `top`."""

    data: Place
    """The dataset's folder."""
    view: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
    """The view's name: views/NAME.parquet in the dataset, for `train.data: {path: …, view: NAME}`."""
    where: dict[str, Wanted] = {}
    """Only samples whose columns (the dataset's or annotations) are so: {clip_score: {min: 0.28}, split: train}."""
    deduplicate: DeduplicateConfig | None = None
    """Leaves out what is there twice, when given."""
    top: TopConfig | None = None
    """Keeps the best share, when given."""
