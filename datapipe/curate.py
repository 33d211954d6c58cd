"""Dataset → view: the rows that fulfil conditions, are no duplicates and are among the best."""

import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from datapipe.annotation import Annotation, annotation_names, read_values, require_annotation
from datapipe.conditions import condition_name, fulfils
from datapipe.curate_config import PHASH, CurateConfig, DeduplicateConfig, TopConfig
from datapipe.dataset import Dataset
from datapipe.dedup import first_of_each, without_near_duplicates
from datapipe.status import SampleStatus
from infra.errors import ConfigError
from infra.progress import Progress
from infra.storage import Storage

SHARDS_AT_ONCE = 8
VIEWS_FOLDER = "views"
CURATION = b"curation"  # in a view's metadata: the settings, and how many rows each step left


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a curation: what it asks for, and how many samples it left."""

    name: str
    left: int


@dataclass(frozen=True, slots=True)
class Curation:
    """A view that was written: its path in the dataset, and the steps that led to it."""

    path: str
    samples: int
    steps: tuple[Step, ...]


def view_path(name: str) -> str:
    """Where the view of that name lies in its dataset."""
    return f"{VIEWS_FOLDER}/{name}.parquet"


def view_names(dataset: Storage) -> list[str]:
    """The names of the dataset's views, sorted."""
    suffix = view_path("").removeprefix(f"{VIEWS_FOLDER}/")
    paths = [entry.path.removeprefix(f"{VIEWS_FOLDER}/") for entry in dataset.list_files(VIEWS_FOLDER)]
    return [path.removesuffix(suffix) for path in paths if path.endswith(suffix)]


def count_rows(dataset: Storage, name: str) -> int:
    """The rows of a view, from its footer."""
    with dataset.open_input(view_path(name)) as stream:
        return int(pq.ParquetFile(stream).metadata.num_rows)


def used_columns(config: CurateConfig) -> list[str]:
    """The columns that the curation reads, each once."""
    more = [config.deduplicate.column, config.deduplicate.prefer] if config.deduplicate else []
    more += [config.top.column] if config.top else []
    return list(dict.fromkeys([*config.where, *(column for column in more if column is not None)]))


def curate(config: CurateConfig, progress: Progress) -> Curation:
    """Writes the view; the same dataset, annotations and settings give the same bytes.

    Keeps the columns that are used of all rows in memory. Raises InputError for a place without a dataset, ConfigError
    for unknown columns and when nothing is left, CorruptData for an annotation that is not whole.
    """
    dataset = Dataset.open(config.data)
    progress.begin("curate", total=len(dataset.manifest.shard_rows), unit="shards")
    rows, steps = _fulfilling(config, dataset, progress)
    if config.deduplicate is not None:
        rows = rows.filter(pa.array(_distinct(rows, config.deduplicate)))
        steps.append(Step(_describe(config.deduplicate), rows.num_rows))
    if config.top is not None:
        rows = rows.filter(pa.array(_best(rows, config.top)))
        steps.append(Step(f"top {100 * config.top.share:g} % of {config.top.column}", rows.num_rows))
    told = "; ".join(f"{step.name}: {step.left:,}" for step in steps) or "no condition"
    if not rows.num_rows:
        raise ConfigError(
            f"curate: of {dataset.manifest.samples:,} samples of {dataset.storage.url} none is left ({told}).",
            "A view has one sample or more.",
            "Loosen the condition that leaves out too much.",
        )
    curation = Curation(view_path(config.view), rows.num_rows, tuple(steps))
    dataset.storage.write_bytes(curation.path, _view_bytes(config, rows, curation))
    progress.end(f"{rows.num_rows:,} of {dataset.manifest.samples:,} samples ({told})")
    return curation


def read_curation(dataset: Storage, name: str) -> Curation | None:
    """What is known of how a view was made; None for one that was not made here, or is not there."""
    path = view_path(name)
    if not dataset.exists(path):
        return None
    with dataset.open_input(path) as stream:
        metadata = pq.ParquetFile(stream).schema_arrow.metadata or {}
    if CURATION not in metadata:
        return None
    raw = json.loads(metadata[CURATION])
    return Curation(path, raw["samples"], tuple(Step(**step) for step in raw["steps"]))


def _view_bytes(config: CurateConfig, rows: pa.Table, curation: Curation) -> bytes:
    told = {
        "settings": config.model_dump(mode="json", exclude={"data"}),
        "samples": curation.samples,
        "steps": [asdict(step) for step in curation.steps],
    }
    table = rows.select(["shard", "row"]).replace_schema_metadata({CURATION: json.dumps(told, sort_keys=True)})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return bytes(sink.getvalue().to_pybytes())


def _fulfilling(config: CurateConfig, dataset: Dataset, progress: Progress) -> tuple[pa.Table, list[Step]]:
    """The samples that fulfil all conditions: shard, row and the columns that later steps want."""
    columns = used_columns(config)
    if not dataset.manifest.shard_rows:
        return pa.table({"shard": pa.array([], pa.int64()), "row": pa.array([], pa.int64())}), []
    present = dataset.column_names(0)
    annotations = {name: _annotation(dataset, name, present) for name in columns if name not in present}
    left = np.zeros(len(config.where), dtype=np.int64)
    parts = []

    def look(shard: int) -> tuple[pa.Table, list[int]]:
        return _in_shard(config, dataset, annotations, columns, shard)

    with ThreadPoolExecutor(SHARDS_AT_ONCE) as threads:
        for done, (part, counts) in enumerate(threads.map(look, range(len(dataset.manifest.shard_rows))), 1):
            parts.append(part)
            left += np.asarray(counts, dtype=np.int64)
            progress.update(done)
    names = [condition_name(column, wanted) for column, wanted in config.where.items()]
    steps = [Step(name, int(count)) for name, count in zip(names, left, strict=True)]
    return pa.concat_tables(parts, promote_options="permissive").combine_chunks(), steps


def _annotation(dataset: Dataset, name: str, present: Iterable[str]) -> Annotation:
    if name not in annotation_names(dataset.storage):
        raise ConfigError(
            f"curate: {dataset.storage.url} has no column and no annotation {name!r}.",
            f"Its columns are {', '.join(present)}; its annotations: "
            f"{', '.join(annotation_names(dataset.storage)) or 'none'}.",
            "Name one of them, or make the annotation with `diptych annotate`.",
        )
    return require_annotation(dataset.storage, name)


def _in_shard(
    config: CurateConfig, dataset: Dataset, annotations: dict[str, Annotation], columns: list[str], shard: int
) -> tuple[pa.Table, list[int]]:
    """The shard's samples that fulfil the conditions, and how many each condition left."""
    stored = [column for column in columns if column not in annotations]
    table = dataset.read_rows(shard, ["status", *stored])
    count = table.num_rows
    for name, annotation in annotations.items():
        table = table.append_column(name, read_values(dataset, annotation, shard))
    table = table.append_column("shard", pa.array(np.full(count, shard, dtype=np.int64)))
    table = table.append_column("row", pa.array(np.arange(count, dtype=np.int64)))
    table = table.filter(pc.equal(table["status"], SampleStatus.SUCCESS.value))
    left = []
    for column, wanted in config.where.items():
        table = table.filter(pc.fill_null(fulfils(table[column], wanted, column), False))
        left.append(table.num_rows)
    return table.select(["shard", "row", *(name for name in columns if name in _later_columns(config))]), left


def _later_columns(config: CurateConfig) -> list[str]:
    return used_columns(config.model_copy(update={"where": {}}))


def _distinct(rows: pa.Table, config: DeduplicateConfig) -> npt.NDArray[np.bool_]:
    """Which rows stay; those without a value have nothing to be alike in, and stay."""
    values = rows[config.column]
    has_value = pc.is_valid(values).to_numpy(zero_copy_only=False)
    order = np.flatnonzero(has_value)
    if config.prefer is not None:
        order = order[np.argsort(-_numbers(rows, config.prefer, "deduplicate.prefer")[order], kind="stable")]
    if config.max_distance:
        if not pa.types.is_uint64(values.type):
            raise ConfigError(
                f"curate.deduplicate.max_distance: got {config.max_distance} for the column {config.column}.",
                f"Bits are counted between perceptual hashes; the column holds {values.type}.",
                f"Take the column {PHASH}, or set max_distance to 0.",
            )
        hashes = values.take(pa.array(order)).to_numpy().astype(np.uint64)
        stays = without_near_duplicates(hashes, config.max_distance)
    else:
        # The values' numbers in a dictionary: alike for all kinds of columns.
        codes = values.combine_chunks().dictionary_encode()
        encoded = codes.indices if isinstance(codes, pa.DictionaryArray) else codes.combine_chunks().indices
        stays = first_of_each(encoded.take(pa.array(order)).to_numpy())
    mask = ~has_value
    mask[order[stays]] = True
    return np.asarray(mask, dtype=bool)


def _best(rows: pa.Table, config: TopConfig) -> npt.NDArray[np.bool_]:
    """The rows with the greatest values; of equal ones the first."""
    values = _numbers(rows, config.column, "top.column")
    wanted = int(np.ceil(config.share * np.isfinite(values).sum()))
    mask = np.zeros(len(values), dtype=bool)
    mask[np.argsort(-values, kind="stable")[:wanted]] = True
    return mask


def _numbers(rows: pa.Table, column: str, key: str) -> npt.NDArray[np.float64]:
    """The column as numbers, minus infinity where there is none."""
    try:
        numbers = rows[column].cast(pa.float64())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ConfigError(
            f"curate.{key}: got {column}.",
            f"The column holds {rows[column].type}; rows are ordered by numbers.",
            "Name a column of numbers.",
        ) from error
    found = numbers.to_numpy(zero_copy_only=False).astype(np.float64)
    return np.where(np.isfinite(found), found, -np.inf)


def _describe(config: DeduplicateConfig) -> str:
    near = f" within {config.max_distance} bits" if config.max_distance else ""
    return f"distinct {config.column}{near}"
