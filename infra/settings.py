"""The base of every section of the config: frozen, unknown keys refused, fields documented."""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict


def absolute_place(place: str) -> str:
    """A local path made absolute (a worker has another working folder than the command); addresses as they are."""
    if "://" in place and not place.startswith("file://"):
        return place
    return str(Path(place.removeprefix("file://")).expanduser().absolute())


Place = Annotated[str, AfterValidator(absolute_place)]
"""A local path or an address such as s3://bucket/prefix."""


class Settings(BaseModel):
    """A section of the config. Frozen once built; a key that it doesn't know is an error."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        allow_inf_nan=True,
        protected_namespaces=(),
    )


class FiniteSettings(Settings):
    """A section whose numbers are all finite."""

    model_config = ConfigDict(allow_inf_nan=False)
