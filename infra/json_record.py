"""Reads a record from a file of JSON, whichever version wrote it: by the fields that this one knows."""

import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from infra.errors import InputError
from infra.storage import Storage

Record = TypeVar("Record")


def read_record(storage: Storage, path: str, make: Callable[[dict[str, Any]], Record]) -> Record:
    """What is made of the file's JSON object.

    Raises FileNotFoundError where there is no file, and InputError where nothing can be made of it.
    """
    data = storage.read_bytes(path)
    try:
        return make(dict(json.loads(data)))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError(
            f"{storage.url}/{path} cannot be read as a record ({type(error).__name__}: {error}).",
            "It is damaged, or of a version of diptych that writes other ones.",
            "Restore it, or use that version.",
        ) from error


def known_fields(kind: type[Record], raw: Mapping[str, Any]) -> Record:
    """The dataclass with those of its fields that are there; what a later version added is left out."""
    names = kind.__dataclass_fields__  # type: ignore[attr-defined]
    return kind(**{name: value for name, value in raw.items() if name in names})
