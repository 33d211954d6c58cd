"""URL list → dataset: does the shards that are missing, then writes the manifest."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from datapipe.build_record import BuildView
from datapipe.build_report import BuildReport
from datapipe.commit import marker_name
from datapipe.config import BuildConfig, ResizeMode
from datapipe.conversions import CONVERTED_FOLDER
from datapipe.damage import damaged_shards, forget_damage, note_damage
from datapipe.dataset import FORMAT_VERSION, MANIFEST_FILE, Manifest, read_manifest, shard_name
from datapipe.finished import find_finished
from datapipe.identity import SETTINGS_FILE, build_settings, refuse_other_settings, write_settings
from datapipe.image import process_image
from datapipe.input_files import ListFile, files_there, find_input_files, would_find
from datapipe.isolation import ProcessImage
from datapipe.marker import ShardStats
from datapipe.marker_index import write_index
from datapipe.plan import InputFile, ShardPlan, plan_shards, shard_count
from datapipe.retry import longest_url_s
from datapipe.shared_output import require_all_seen
from datapipe.urls import check_input, input_identity, open_url_list, resolved
from infra.errors import ConfigError, CorruptData, InputError, OutputError, StageFailed
from infra.lease import Lease, hold
from infra.place import dead_nodes
from infra.progress import Progress, duration
from infra.storage import Storage, storage_of

BYTES_PER_SQUARE_PIXEL = 0.4  # a 256-pixel JPEG at quality 95 has about 25 KB
INDEX_EVERY_S = 300.0
SPARE_DISK_BYTES = 64 << 20
# Of each kind of a dataset's files one, as a pattern would find it.
OWN_FILES = (
    *(f"{shard_name(0)}.parquet", f"{shard_name(0)}.tar", marker_name(0), SETTINGS_FILE, MANIFEST_FILE),
    *(f"{CONVERTED_FOLDER}/list.parquet", f"columns/phash/{shard_name(0)}.parquet", "views/some.parquet"),
)


@dataclass(frozen=True, slots=True)
class BuildResult:
    """A finished dataset, and how many of its shards this call made or found made."""

    manifest: Manifest
    shards_built: int
    shards_found: int


def check_build(config: BuildConfig) -> None:
    """Finds what a user can have got wrong, before anything is written or started. Raises UserError."""
    _refuse_output_in_list(config)
    config = resolved(config)
    rows = check_input(config)
    output = storage_of(config.output)
    refuse_other_settings(output, build_settings(config, find_input_files(config.input)))
    finished = find_finished(output, shard_count(rows, config.number_sample_per_shard))
    _require_room(output, config, rows - sum(stats.rows for stats in finished.values()))
    output.require_writable()


def build(
    config: BuildConfig,
    progress: Progress,
    process_image: ProcessImage = process_image,
    tell: Callable[[str], None] = lambda _: None,
) -> BuildResult:
    """Builds what is missing of the dataset, as its only builder. Ray is connected already.

    `tell` hears, from another thread, which shards are begun again, and why.
    Raises UserError for wrong input and places, StageFailed when shards can't be made, StorageFailed.
    """
    config = resolved(config)
    output = storage_of(config.output)
    output.require_writable()
    with hold(output, progress.note) as lease:
        listed = find_input_files(config.input)  # what comes there later is no part of the list
        settings = build_settings(config, listed)
        refuse_other_settings(output, settings)
        sweep(output)
        _take_back_damaged(output)
        files = open_url_list(config, listed)
        write_settings(output, settings)
        rows = sum(file.rows for file in files)
        finished = find_finished(output, shard_count(rows, config.number_sample_per_shard))
        _require_room(output, config, rows - sum(stats.rows for stats in finished.values()))
        if len(finished) < shard_count(rows, config.number_sample_per_shard):
            output.delete(MANIFEST_FILE)  # no reader may take shards for whole that are being made again
        stats = _build_missing(config, files, finished, rows, progress, lease, process_image, tell)
        built = sorted({shard.shard for shard in stats} - finished.keys())
        _require_same_list(config, output, listed, settings, built)
        require_all_seen(output, len(stats))
        manifest = build_manifest(stats, settings)
        output.write_bytes(MANIFEST_FILE, manifest.to_json())
        if not output.is_local:
            write_index(output, stats)
        sweep(output)
        _tell_of_later_files(config, listed, progress)
    progress.end(f"{manifest.samples:,} samples of {manifest.rows:,} rows in {len(stats):,} shards")
    return BuildResult(manifest, len(stats) - len(finished), len(finished))


def is_complete(output: Storage) -> bool:
    """Whether a finished dataset is there whose files are all as large as they were, and none known to be damaged."""
    if not output.exists(MANIFEST_FILE) or damaged_shards(output):
        return False
    try:
        shards = len(read_manifest(output).shard_rows)
    except InputError:
        return False
    return len(find_finished(output, shards)) == shards


def _take_back_damaged(output: Storage) -> None:
    """Removes the markers of the shards that are known to be damaged, so that they are made again."""
    damaged = damaged_shards(output)
    if damaged:
        output.delete(MANIFEST_FILE)
    for shard in damaged:
        output.delete(marker_name(shard))
    forget_damage(output)


def _refuse_output_in_list(config: BuildConfig) -> None:
    """Raises ConfigError when the dataset's own files would become files of its list."""
    output = storage_of(config.output).url
    for name in OWN_FILES:
        if would_find(config.input, f"{output.rstrip('/')}/{name}"):
            raise ConfigError(
                f"build.output: {output} lies where build.input looks: {config.input} would take in its {name}.",
                "The files of a dataset are no part of its own list.",
                "Choose another output, or a pattern for the input that they do not fit.",
            )


def _require_same_list(
    config: BuildConfig, output: Storage, listed: Sequence[ListFile], settings: dict[str, object], built: list[int]
) -> None:
    """Raises InputError when the list was replaced meanwhile; the shards of this start are made again by the next."""
    if not built or _is_still(listed, settings):
        return
    note_damage(output, [*damaged_shards(output), *built])
    raise InputError(
        f"build.input: {config.input} is not the list any more that it was when the build began.",
        f"All shards of a dataset are of one list; of this start {len(built):,} may be of another.",
        "Restore the list and run the same command again: it makes those anew. Or choose another output.",
    )


def _is_still(listed: Sequence[ListFile], settings: dict[str, object]) -> bool:
    try:
        return input_identity(listed) == settings["input_sha256"]
    except FileNotFoundError:
        return False


def _tell_of_later_files(config: BuildConfig, listed: Sequence[ListFile], progress: Progress) -> None:
    known = frozenset(listed)
    later = [file.name for file in files_there(config.input) if file not in known]
    if later:
        progress.note(
            f"build  {config.input} has {len(later):,} more than when the build began ({', '.join(later[:3])}): "
            "no part of this dataset. While they are there, the next start refuses the list as another one: move them, "
            "or name the files of this list by a pattern that they do not fit."
        )


def sweep(output: Storage) -> None:
    """Removes what attempts that were killed have left."""
    for folder in (output, output.at(CONVERTED_FOLDER)):
        folder.sweep_unfinished()


def _require_room(output: Storage, config: BuildConfig, rows: int) -> None:
    """Refuses to begin what cannot end; of the estimate, half may be dead links."""
    per_image = 0.0 if config.resize_mode is ResizeMode.NO else config.image_size**2 * BYTES_PER_SQUARE_PIXEL
    needed, free = SPARE_DISK_BYTES + int(rows * per_image / 2), output.free_bytes()
    if rows and free is not None and free < needed:
        raise OutputError(
            f"build.output: {output.url} has {free / 1e6:,.0f} MB free.",
            f"{rows:,} pictures of {config.image_size} pixels still to come need at least {needed / 1e6:,.0f} MB.",
            "Free some space or choose another output; what is finished is kept.",
        )


def _build_missing(
    config: BuildConfig,
    files: Sequence[InputFile],
    finished: dict[int, ShardStats],
    rows: int,
    progress: Progress,
    lease: Lease,
    process_image: ProcessImage,
    tell: Callable[[str], None],
) -> list[ShardStats]:
    plans = [plan for plan in plan_shards(files, config.number_sample_per_shard) if plan.shard not in finished]
    stats = dict(finished)
    rows_found = rows - sum(plan.rows for plan in plans)
    progress.begin("build", total=rows, unit="rows", done=rows_found)
    if plans:
        from datapipe.ray_flow import run_shard_tasks

        progress.note(_bound(config, plans))
        output, indexed_at = storage_of(config.output), time.monotonic()
        report = BuildReport(progress, finished.values(), len(finished) + len(plans))

        def look(view: BuildView) -> None:
            report.on_progress(view.done, view.nodes)
            gone = dead_nodes() if view.losses else frozenset()
            for loss in view.losses:
                progress.note(f"build  {loss.words(gone)}")
                tell(loss.words(gone))

        for shard_stats in run_shard_tasks(plans, config, look, process_image):
            require_lease(lease, config.output)
            stats[shard_stats.shard] = shard_stats
            report.on_shard(shard_stats)
            if not output.is_local and time.monotonic() - indexed_at > INDEX_EVERY_S:
                write_index(output, stats.values())
                indexed_at = time.monotonic()
        report.end()
    progress.update(rows)
    return [stats[shard] for shard in sorted(stats)]


def require_lease(lease: Lease, output: str) -> None:
    """Waits for a storage that is away. Raises StageFailed when somebody else may write there, CredentialsRefused."""
    if not lease.wait_until_held():
        raise StageFailed(
            f"{output}: the lease was lost, because the storage could not be reached for too long.",
            "Another one may have taken over; the shards that are finished are kept.",
            "Run the same command again: it waits for the other one, or goes on.",
        )


def _bound(config: BuildConfig, plans: Sequence[ShardPlan]) -> str:
    """The time that a shard can take at worst: every URL hangs, and all lie on one host."""
    longest = max(plan.rows for plan in plans)
    turns = -(-longest // min(config.connections, config.connections_per_host))
    requests = 2 if config.respect_robots_txt else 1  # each host's robots.txt is one more
    bound = requests * turns * longest_url_s(config.timeout, config.retries)
    if config.requests_per_second_per_host is not None:
        hops = (config.retries + 1) * (config.max_redirects + 1)
        bound += requests * longest * hops / config.requests_per_second_per_host
    return f"build  {len(plans):,} shards to do; each ends within {duration(bound)}, even if every host hangs"


def build_manifest(stats: Sequence[ShardStats], settings: dict[str, object]) -> Manifest:
    """The manifest of a dataset of these shards, in their order. Raises CorruptData when a row has no state."""
    counts = Counter[str]()
    for shard in stats:
        counts.update(shard.status_counts)
        if sum(shard.status_counts.values()) != shard.rows:
            raise CorruptData(f"Shard {shard.shard} has {shard.rows} rows, and states of {shard.status_counts}.")
    return Manifest(
        format_version=FORMAT_VERSION,
        settings=settings,
        shard_rows=tuple(shard.rows for shard in stats),
        shard_samples=tuple(shard.samples for shard in stats),
        status_counts=dict(sorted(counts.items())),
        total_bytes=sum(facts.size_bytes for shard in stats for facts in shard.files.values()),
    )
