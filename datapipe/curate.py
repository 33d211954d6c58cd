"""Dataset → view: the rows that fulfil conditions, are no duplicates and are among the best."""

import hashlib
import json
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from datapipe.annotation import (
    Annotation,
    annotation_marker,
    annotation_names,
    read_values,
    require_annotation,
)
from datapipe.columns import is_good
from datapipe.comparable import as_keys, as_ranks, in_one_kind
from datapipe.conditions import condition_name, fulfils, is_number
from datapipe.curate_config import PHASH, CurateConfig, DeduplicateConfig
from datapipe.dataset import MANIFEST_FILE, Dataset
from datapipe.dedup import first_of_each, without_near_duplicates
from datapipe.view_file import VIEWS_FOLDER, Curation, Step, view_bytes, view_path
from infra.errors import ConfigError
from infra.progress import Progress
from infra.storage import storage_of

SHARDS_AT_ONCE = 8
# The columns of the rows that are left: their places, and what they are compared by.
SHARD, ROW, ALIKE, PREFER, TOP = "shard", "row", "alike", "prefer", "top"
FINE = " fine"  # the second half of a rank


def used_columns(config: CurateConfig) -> list[str]:
    """The columns that the curation reads, each once."""
    more = [config.deduplicate.column, config.deduplicate.prefer] if config.deduplicate else []
    more += [config.top.column] if config.top else []
    return list(dict.fromkeys([*config.where, *(column for column in more if column is not None)]))


def curation_source(config: CurateConfig) -> str:
    """A hash of all that the view depends on: settings, dataset and annotations."""
    storage = storage_of(config.data)
    digests = [json.dumps(config.model_dump(mode="json", exclude={"data"}), sort_keys=True)]
    for path in [MANIFEST_FILE, *(annotation_marker(column) for column in used_columns(config))]:
        data = storage.read_bytes(path) if storage.exists(path) else b""
        digests.append(hashlib.sha256(data).hexdigest())
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def check_curation(config: CurateConfig) -> None:
    """Finds what a user can have got wrong, without reading rows. Raises UserError."""
    dataset = Dataset.open(config.data)
    _Columns.find(dataset, config)
    dataset.storage.at(VIEWS_FOLDER).require_writable()


def curate(
    config: CurateConfig, progress: Progress, *, before_write: Callable[[str, bytes], None] = lambda *_: None
) -> Curation:
    """Writes the view; the same dataset, annotations and settings give the same bytes.

    Keeps of all rows the columns that are used in memory; of texts that are compared, 16 bytes each. `before_write` is
    told path and bytes, and may refuse. Raises InputError for a place without a dataset, ConfigError for unknown
    columns and when nothing is left, CorruptData for an annotation that is not whole.
    """
    dataset = Dataset.open(config.data)
    dataset.storage.at(VIEWS_FOLDER).require_writable()
    made_from = curation_source(config)
    progress.begin("curate", total=len(dataset.manifest.shard_rows), unit="shards")
    rows, steps = _fulfilling(config, dataset, progress)
    if config.deduplicate is not None and rows.num_rows:
        progress.set_detail("looking for duplicates")
        rows = rows.filter(pa.array(_distinct(rows, config.deduplicate)))
        steps.append(Step(_describe(config.deduplicate), rows.num_rows))
    if config.top is not None and rows.num_rows:
        rows = rows.filter(pa.array(_best(rows, config.top.share)))
        steps.append(Step(f"top {100 * config.top.share:g} % of {config.top.column}", rows.num_rows))
    told = "; ".join(f"{step.name}: {step.left:,}" for step in steps) or "no condition"
    if not rows.num_rows:
        raise ConfigError(
            f"curate: of {dataset.manifest.samples:,} samples of {dataset.storage.url} none is left ({told}).",
            "A view has one sample or more.",
            "Loosen the condition that leaves out too much.",
        )
    curation = Curation(view_path(config.view), rows.num_rows, tuple(steps), made_from)
    chosen = pa.table({"shard": rows[SHARD], "row": rows[ROW]})
    data = view_bytes(chosen, curation, config.model_dump(mode="json", exclude={"data"}))
    before_write(curation.path, data)
    dataset.storage.write_bytes(curation.path, data)
    progress.end(f"{rows.num_rows:,} of {dataset.manifest.samples:,} samples ({told})")
    return curation


@dataclass(frozen=True, slots=True)
class _Columns:
    """The used columns by where they are: in the dataset's own tables, or annotations."""

    stored: tuple[str, ...]
    annotations: dict[str, Annotation]

    @classmethod
    def find(cls, dataset: Dataset, config: CurateConfig) -> "_Columns":
        """Raises ConfigError for a column that is neither, or not of the type that is needed."""
        wanted, known = used_columns(config), annotation_names(dataset.storage)
        first = dataset.column_names(0) if dataset.manifest.shard_rows else []
        # Of phash, made under that name alone, the annotation counts: the list's own may be of any kind.
        others = [name for name in wanted if name in known and (name == PHASH or name not in first)]
        stored = dataset.find_columns(name for name in wanted if name not in others)
        for name in wanted:
            if name not in stored and name not in known:
                raise ConfigError(
                    f"curate: {dataset.storage.url} has no column and no annotation {name!r}.",
                    f"Its columns are {', '.join(first)}; its annotations: {', '.join(known) or 'none'}.",
                    "Name one of them, or make the annotation with `diptych annotate`.",
                )
        for column, key in _rank_columns(config).values():
            if column in stored and not is_number(stored[column]):
                raise _no_numbers(key, column, stored[column], "")
        if config.deduplicate is not None and config.deduplicate.column in stored:
            _require_hashes(stored[config.deduplicate.column], config.deduplicate)
        return cls(tuple(stored), {name: require_annotation(dataset.storage, name) for name in others})


def _fulfilling(config: CurateConfig, dataset: Dataset, progress: Progress) -> tuple[pa.Table, list[Step]]:
    """The samples that fulfil all conditions: shard, row and what later steps want."""
    columns = _Columns.find(dataset, config)
    left = np.zeros(len(config.where), dtype=np.int64)
    parts = [pa.table({SHARD: pa.array([], pa.int64()), ROW: pa.array([], pa.int64())})]
    shards = range(len(dataset.manifest.shard_rows))
    with ThreadPoolExecutor(SHARDS_AT_ONCE) as threads:
        found = threads.map(lambda shard: _in_shard(config, dataset, columns, shard), shards)
        for done, (part, counts) in enumerate(found, 1):
            parts.append(part)
            left += np.asarray(counts, dtype=np.int64)
            progress.update(done)
    names = [condition_name(column, wanted) for column, wanted in config.where.items()]
    steps = [Step(name, int(count)) for name, count in zip(names, left, strict=True)]
    return pa.concat_tables(in_one_kind(parts, ALIKE), promote_options="permissive"), steps


def _in_shard(config: CurateConfig, dataset: Dataset, columns: _Columns, shard: int) -> tuple[pa.Table, list[int]]:
    """The shard's samples that fulfil the conditions, and how many each condition left."""
    stored = dataset.read_rows(shard, ["status", *(name for name in columns.stored if name != "status")])
    values = {name: stored[name] for name in columns.stored}
    for name, annotation in columns.annotations.items():
        values[name] = read_values(dataset, annotation, shard)
    is_in = is_good(stored)
    left = []
    for column, wanted in config.where.items():
        is_in = pc.and_(is_in, pc.fill_null(fulfils(values[column], wanted, f"curate.where.{column}"), False))
        left.append(int(pc.sum(is_in).as_py() or 0))
    places = np.flatnonzero(is_in.to_numpy(zero_copy_only=False).astype(bool))
    chosen = {SHARD: np.full(len(places), shard, dtype=np.int64), ROW: places.astype(np.int64)}
    return pa.table(chosen | _later_values(config, values, pa.array(places), shard)), left


def _later_values(
    config: CurateConfig, values: dict[str, pa.ChunkedArray], places: pa.Array, shard: int
) -> dict[str, pa.ChunkedArray | pa.Array | npt.NDArray[np.generic]]:
    """What deduplication and ranking look at."""
    later: dict[str, pa.ChunkedArray | pa.Array | npt.NDArray[np.generic]] = {}
    if config.deduplicate is not None:
        alike = values[config.deduplicate.column]
        _require_hashes(alike.type, config.deduplicate)
        later[ALIKE] = as_keys(alike.take(places))
    for name, (column, key) in _rank_columns(config).items():
        ranks = as_ranks(values[column].take(places))
        if ranks is None:
            raise _no_numbers(key, column, values[column].type, f" in shard {shard}")
        later[name], later[name + FINE] = ranks
    return later


def _rank_columns(config: CurateConfig) -> dict[str, tuple[str, str]]:
    """The columns that rows are ordered by, each with its key in the config."""
    found = {}
    if config.deduplicate is not None and config.deduplicate.prefer is not None:
        found[PREFER] = (config.deduplicate.prefer, "deduplicate.prefer")
    if config.top is not None:
        found[TOP] = (config.top.column, "top.column")
    return found


def _require_hashes(kind: pa.DataType, config: DeduplicateConfig) -> None:
    if config.max_distance and not (pa.types.is_uint64(kind) or pa.types.is_null(kind)):
        raise ConfigError(
            f"curate.deduplicate.max_distance: got {config.max_distance} for the column {config.column}, of {kind}.",
            "Bits are counted between perceptual hashes, which are whole numbers of 64 bits (uint64).",
            f"Make the annotation with `diptych annotate` and annotate.{PHASH}=true, take the column {PHASH}, or set "
            "max_distance to 0.",
        )


def _no_numbers(key: str, column: str, kind: pa.DataType, where: str) -> ConfigError:
    return ConfigError(
        f"curate.{key}: got {column}.",
        f"The column holds {kind}{where}; rows are ordered by numbers.",
        "Name a column of numbers.",
    )


def _distinct(rows: pa.Table, config: DeduplicateConfig) -> npt.NDArray[np.bool_]:
    """Which rows stay; those without a value have nothing to be alike in, and stay."""
    values = rows[ALIKE]
    has_value = pc.is_valid(values).to_numpy(zero_copy_only=False).astype(bool)
    if not has_value.any():
        return np.ones(len(values), dtype=bool)
    order = np.arange(len(values)) if config.prefer is None else _best_first(rows, PREFER)
    order = order[has_value[order]]
    if pa.types.is_uint64(values.type):
        hashes = values.take(pa.array(order)).to_numpy().astype(np.uint64)
        stays = without_near_duplicates(hashes, config.max_distance)
    else:
        codes = values.dictionary_encode().unify_dictionaries()
        numbers = pa.chunked_array([chunk.indices for chunk in codes.chunks], pa.int32())
        stays = first_of_each(numbers.take(pa.array(order)).to_numpy())
    mask = ~has_value
    mask[order[stays]] = True
    return np.asarray(mask, dtype=bool)


def _best(rows: pa.Table, share: float) -> npt.NDArray[np.bool_]:
    """The rows with the greatest values; of equal ones the first."""
    # As it is written: in floating point 7 % of 100 are a little more than 7.
    wanted = math.ceil(Fraction(repr(share)) * int(np.isfinite(rows[TOP].to_numpy()).sum()))
    mask = np.zeros(rows.num_rows, dtype=bool)
    mask[_best_first(rows, TOP)[:wanted]] = True
    return mask


def _best_first(rows: pa.Table, name: str) -> npt.NDArray[np.int64]:
    """The places of the rows by falling rank; of equals the first one first."""
    return np.lexsort((-rows[name + FINE].to_numpy(), -rows[name].to_numpy()))


def _describe(config: DeduplicateConfig) -> str:
    near = f" within {config.max_distance} bits" if config.max_distance else ""
    return f"distinct {config.column}{near}"
