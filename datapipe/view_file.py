"""The files of a dataset's views: which samples are meant, and how `curate` came to them."""

import json
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from infra.storage import Storage

VIEWS_FOLDER = "views"
SUFFIX = ".parquet"
CURATION = b"curation"  # in the metadata of a view that `curate` made


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a curation: what it asks for, and how many samples it left."""

    name: str
    left: int


@dataclass(frozen=True, slots=True)
class Curation:
    """How a view was made: its path in the dataset, its samples, the steps, and a hash of all that it depends on."""

    path: str
    samples: int
    steps: tuple[Step, ...]
    made_from: str


def view_path(name: str) -> str:
    """Where the view of that name lies in its dataset."""
    return f"{VIEWS_FOLDER}/{name}{SUFFIX}"


def view_names(dataset: Storage) -> list[str]:
    """The names of the dataset's views, sorted."""
    paths = [entry.path.removeprefix(f"{VIEWS_FOLDER}/") for entry in dataset.list_files(VIEWS_FOLDER)]
    return [path.removesuffix(SUFFIX) for path in paths if path.endswith(SUFFIX)]


def count_rows(dataset: Storage, name: str) -> int | None:
    """The rows of a view, from its footer; None for a file that is none."""
    file = _open(dataset, name)
    return None if file is None else int(file.num_rows)


def read_curation(dataset: Storage, name: str) -> Curation | None:
    """How a view was made; None for one that `curate` did not make, or that is not there."""
    file = _open(dataset, name)
    told = None if file is None else (file.schema.to_arrow_schema().metadata or {}).get(CURATION)
    if told is None:
        return None
    raw = json.loads(told)
    return Curation(view_path(name), raw["samples"], tuple(Step(**step) for step in raw["steps"]), raw["made_from"])


def view_bytes(rows: pa.Table, curation: Curation, settings: dict[str, Any]) -> bytes:
    """The file of a view of these rows (shard, row)."""
    told = asdict(curation) | {"settings": settings}
    sink = pa.BufferOutputStream()
    table = rows.replace_schema_metadata({CURATION: json.dumps(told, sort_keys=True)})
    pq.write_table(table, sink, compression="zstd")
    return bytes(sink.getvalue().to_pybytes())


def _open(dataset: Storage, name: str) -> pq.FileMetaData | None:
    try:
        with dataset.open_input(view_path(name)) as stream:
            return pq.ParquetFile(stream).metadata
    except (OSError, pa.ArrowException):
        return None
