"""The base of every section of the config: frozen, unknown keys refused, fields documented."""

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """A section of the config. Frozen once built; a key that it doesn't know is an error."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        allow_inf_nan=True,
        protected_namespaces=(),
    )
