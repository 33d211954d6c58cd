"""Dataset → annotation: one value for each picture, made shard by shard with Ray Data; what is there is kept."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from datapipe.annotation import (
    ANNOTATION_FILE,
    MADE_FROM,
    Annotation,
    annotation_file,
    annotation_folder,
    facts_of,
    find_annotation,
    source_of,
)
from datapipe.build import require_lease
from datapipe.columns import is_good
from datapipe.dataset import Dataset, ShardReader
from datapipe.finished import find_finished
from datapipe.marker import FileFacts
from infra.errors import CorruptData, StageFailed
from infra.lease import hold
from infra.progress import Progress
from infra.storage import Storage

FILES_AT_ONCE = 16


class Annotator(Protocol):
    """Values of one kind for pictures. Made on the driver, pickled to the workers; `values` loads what it needs."""

    @property
    def settings(self) -> dict[str, Any]:
        """All that the values depend on besides the dataset, as JSON values."""
        ...

    @property
    def columns(self) -> Sequence[str]:
        """The columns of the dataset that it reads."""
        ...

    @property
    def type(self) -> pa.DataType:
        """What its values are."""
        ...

    def values(self, shard: ShardReader) -> pa.Array:
        """One value for each of the shard's good samples, in order; null where there is none."""
        ...


@dataclass(frozen=True, slots=True)
class Pool:
    """The processes that annotate: how many, and what each has of the cluster."""

    processes: int
    cpus: int = 1
    gpus: int = 0


@dataclass(frozen=True, slots=True)
class Written:
    """A shard's file as it lies in storage: size and hash, rows, and rows with a value."""

    shard: int
    facts: FileFacts
    rows: int
    values: int


def annotate(dataset: Dataset, name: str, annotator: Annotator, pool: Pool, progress: Progress) -> Annotation:
    """Makes what is missing of the annotation, as its only writer. Ray is connected already.

    Values of other settings, or of other shards in the same place, are made anew. Raises CorruptData for a dataset
    that is not whole, OutputError, StageFailed when values can't be made, StorageFailed.
    """
    folder = annotation_folder(dataset.storage, name)
    folder.require_writable()
    with hold(folder, progress.note) as lease:
        folder.sweep_unfinished()
        sources = _sources(dataset)
        made_from = {shard: _made_from(source, annotator.settings) for shard, source in sources.items()}
        written = _find_written(folder, name, made_from)
        missing = {shard: digest for shard, digest in made_from.items() if shard not in written}
        _clear(folder, annotator.settings, find_annotation(dataset.storage, name), missing)
        done = sum(found.rows for found in written.values())
        progress.begin("annotate", total=dataset.manifest.rows, unit="rows", done=done)
        progress.set_detail(name)
        for made in _make(dataset, name, annotator, pool, missing):
            require_lease(lease, folder.url)
            written[made.shard] = made
            done += made.rows
            progress.update(done, name)
        annotation = _annotation(name, annotator.settings, sources, [written[shard] for shard in sorted(written)])
        folder.write_bytes(ANNOTATION_FILE, annotation.to_json())
    progress.end(f"{name}: {annotation.values:,} values for {annotation.rows:,} rows")
    return annotation


def _annotation(
    name: str, settings: dict[str, Any], sources: Mapping[int, str], written: Sequence[Written]
) -> Annotation:
    return Annotation(
        name,
        settings,
        {annotation_file(file.shard): file.facts for file in written},
        {annotation_file(shard): source for shard, source in sources.items()},
        rows=sum(file.rows for file in written),
        values=sum(file.values for file in written),
    )


def _sources(dataset: Dataset) -> dict[int, str]:
    """A hash of each shard's bytes. Raises CorruptData when a shard is not as committed."""
    shards = len(dataset.manifest.shard_rows)
    finished = find_finished(dataset.storage, shards)
    if len(finished) < shards:
        raise CorruptData(
            f"{dataset.storage.url}: of {shards:,} shards {shards - len(finished):,} are not as committed.",
            "Only a whole dataset is annotated.",
            "`diptych verify` names what is wrong, and `diptych build` mends it.",
        )
    return {shard: source_of(stats) for shard, stats in sorted(finished.items())}


def _made_from(source: str, settings: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps([settings, source], sort_keys=True).encode()).hexdigest()


def _find_written(folder: Storage, name: str, made_from: Mapping[int, str]) -> dict[int, Written]:
    """The files of the shards that are there already, made from just this, with every byte right."""
    listed = {entry.path for entry in folder.list_files()}
    candidates = [shard for shard in made_from if annotation_file(shard) in listed]
    with ThreadPoolExecutor(FILES_AT_ONCE) as threads:
        found = threads.map(lambda shard: _find_file(folder, name, shard, made_from[shard]), candidates)
        return {file.shard: file for file in found if file is not None}


def _find_file(folder: Storage, name: str, shard: int, made_from: str) -> Written | None:
    data = folder.read_bytes(annotation_file(shard))
    try:
        table = pq.read_table(pa.BufferReader(data), page_checksum_verification=True)
    except (pa.ArrowException, OSError):
        return None
    if (table.schema.metadata or {}).get(MADE_FROM) != made_from.encode() or name not in table.column_names:
        return None
    return Written(shard, facts_of(data), table.num_rows, table.num_rows - table[name].null_count)


def _clear(folder: Storage, settings: dict[str, Any], before: Annotation | None, missing: Mapping[int, str]) -> None:
    """Removes what is not to be read any more: the marker first, then files of other settings and damaged ones."""
    if before is None or missing or before.settings != settings:
        folder.delete(ANNOTATION_FILE)
    listed = {entry.path for entry in folder.list_files()}
    for shard in missing:
        if annotation_file(shard) in listed:
            folder.delete(annotation_file(shard))


def _make(
    dataset: Dataset, name: str, annotator: Annotator, pool: Pool, missing: Mapping[int, str]
) -> Iterator[Written]:
    """Annotates the shards on the cluster and yields each as it is written."""
    if not missing:
        return
    from ray.data import ActorPoolStrategy, from_items

    from datapipe.ray_flow import be_quiet, explained_flow

    be_quiet()
    work = [{"shard": shard, "made_from": made_from} for shard, made_from in missing.items()]
    flow = from_items(work, override_num_blocks=len(work)).map(
        _AnnotateShard,
        fn_constructor_args=(dataset, name, annotator),
        num_cpus=pool.cpus,
        num_gpus=pool.gpus,
        compute=ActorPoolStrategy(size=min(pool.processes, len(work)), max_tasks_in_flight_per_actor=2),
    )
    with explained_flow(f"The annotation {name}"):
        for row in flow.iter_rows():
            yield Written(row["shard"], FileFacts(row["size_bytes"], row["sha256"]), row["rows"], row["values"])


class _AnnotateShard:
    """A process of the pool, which keeps the annotator and what it has loaded."""

    def __init__(self, dataset: Dataset, name: str, annotator: Annotator) -> None:
        self._dataset, self._name, self._annotator = dataset, name, annotator

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        written = annotate_shard(self._dataset, self._name, self._annotator, row["shard"], row["made_from"])
        facts = written.facts
        return {
            "shard": written.shard,
            "size_bytes": facts.size_bytes,
            "sha256": facts.sha256,
            "rows": written.rows,
            "values": written.values,
        }


def annotate_shard(dataset: Dataset, name: str, annotator: Annotator, shard: int, made_from: str) -> Written:
    """Makes one shard's values and writes their file, unless another attempt has just done so.

    Raises StageFailed when somebody else writes other values there.
    """
    rows = dataset.read_rows(shard, ["key", "status"])
    with dataset.open_shard(shard, ["key", *annotator.columns]) as reader:
        values = annotator.values(reader).cast(annotator.type) if len(reader) else pa.nulls(0, annotator.type)
    good = is_good(rows).combine_chunks()
    # The k-th good row has the k-th value.
    places = pc.if_else(good, pc.subtract(pc.cumulative_sum(good.cast(pa.int64())), 1), None)
    table = pa.table({"key": rows["key"], name: values.take(places)}).replace_schema_metadata({MADE_FROM: made_from})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    data = sink.getvalue().to_pybytes()
    folder = annotation_folder(dataset.storage, name)
    if folder.create(annotation_file(shard), data):
        return Written(shard, facts_of(data), table.num_rows, table.num_rows - table[name].null_count)
    # The last bits of scores may differ between attempts: what the first one wrote stays.
    present = _find_file(folder, name, shard, made_from)
    if present is None:
        raise StageFailed(
            f"{folder.url}/{annotation_file(shard)} was written by somebody else meanwhile, with other values.",
            "One annotation of a name is made at a time.",
            "Stop the other one, and run the same command again: it goes on.",
        )
    return present
