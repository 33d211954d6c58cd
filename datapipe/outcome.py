"""What became of one row of a shard."""

from dataclasses import dataclass

from datapipe.status import SampleStatus


@dataclass(frozen=True, slots=True)
class RowOutcome:
    """What became of a row; sizes, EXIF and hash are there for good ones. The hash is of the downloaded bytes."""

    status: SampleStatus
    message: str = ""
    length: int | None = None
    width: int | None = None
    height: int | None = None
    original_width: int | None = None
    original_height: int | None = None
    exif: str | None = None
    digest: str | None = None
