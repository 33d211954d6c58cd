"""URL list → dataset: does the shards that are missing, then writes the manifest."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from datapipe.config import BuildConfig, ResizeMode
from datapipe.dataset import FORMAT_VERSION, MANIFEST_FILE, Manifest, shard_name
from datapipe.identity import build_settings, refuse_other_settings, write_settings
from datapipe.plan import InputFile, ShardPlan, plan_shards, shard_count
from datapipe.retry import longest_url_s
from datapipe.shard import STATS_SUFFIX, ShardStats
from datapipe.urls import CONVERTED_FOLDER, check_input, open_url_list, resolved
from infra.errors import OutputError
from infra.progress import Progress, duration
from infra.storage import FileEntry, Storage, storage_of

BYTES_PER_SQUARE_PIXEL = 0.4  # a 256-pixel JPEG at quality 95 has about 25 KB
SPARE_DISK_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class BuildResult:
    """A finished dataset, and how many of its shards this call made or found made."""

    manifest: Manifest
    shards_built: int
    shards_found: int


def check_build(config: BuildConfig) -> None:
    """Finds what a user can have got wrong, before anything is written or started. Raises UserError."""
    config = resolved(config)
    rows = check_input(config)
    output = storage_of(config.output)
    if not output.is_local:
        raise OutputError(
            f"build.output: got {config.output}.",
            "This version builds into a folder of a local or mounted file system.",
            "Give such a folder.",
        )
    refuse_other_settings(output, build_settings(config))
    finished = find_finished(output, shard_count(rows, config.number_sample_per_shard))
    _require_room(output, config, rows - sum(stats.rows for stats in finished.values()))
    output.require_writable()


def build(config: BuildConfig, progress: Progress) -> BuildResult:
    """Builds what is missing of the dataset. Ray is connected already.

    Raises UserError for wrong input and places, StageFailed when shards can't be made.
    """
    config = resolved(config)
    output = storage_of(config.output)
    settings = build_settings(config)
    refuse_other_settings(output, settings)
    output.require_writable()
    for folder in (output, output.at(CONVERTED_FOLDER)):
        folder.sweep_unfinished()
    files = open_url_list(config)
    write_settings(output, settings)
    rows = sum(file.rows for file in files)
    finished = find_finished(output, shard_count(rows, config.number_sample_per_shard))
    _require_room(output, config, rows - sum(stats.rows for stats in finished.values()))
    stats = _build_missing(config, files, finished, rows, progress)
    manifest = build_manifest(stats, settings)
    output.write_bytes(MANIFEST_FILE, manifest.to_json())
    progress.end(f"{manifest.samples:,} samples of {manifest.rows:,} rows in {len(stats):,} shards")
    return BuildResult(manifest, len(stats) - len(finished), len(finished))


def find_finished(output: Storage, shards: int) -> dict[int, ShardStats]:
    """The shards whose marker is there and whose files have the sizes it vouches for; storage is listed once."""
    listed = {entry.path: entry for entry in output.list_files()}
    finished: dict[int, ShardStats] = {}
    for shard in range(shards):
        marker = f"{shard_name(shard)}{STATS_SUFFIX}"
        if marker in listed:
            stats = _read_marker(output, shard, marker)
            if stats is not None and _has_all_files(stats, listed):
                finished[shard] = stats
    return finished


def _read_marker(output: Storage, shard: int, marker: str) -> ShardStats | None:
    try:
        return ShardStats.from_json(shard, output.read_bytes(marker))
    except (ValueError, KeyError, TypeError):
        # Not one of ours, or damaged: the shard is made again.
        return None


def _has_all_files(stats: ShardStats, listed: dict[str, FileEntry]) -> bool:
    return all(name in listed and listed[name].size_bytes == facts.size_bytes for name, facts in stats.files.items())


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
) -> list[ShardStats]:
    plans = [plan for plan in plan_shards(files, config.number_sample_per_shard) if plan.shard not in finished]
    stats = dict(finished)
    rows_found = rows - sum(plan.rows for plan in plans)
    progress.begin("build", total=rows, unit="rows", done=rows_found)
    if plans:
        from datapipe.ray_flow import run_shard_tasks

        progress.note(_bound(config, plans))
        tasks = run_shard_tasks(plans, config, lambda done: progress.update(rows_found + done))
        for shard_stats in tasks:
            stats[shard_stats.shard] = shard_stats
            progress.set_detail(_yield(stats.values()))
    progress.update(rows, _yield(stats.values()))
    return [stats[shard] for shard in sorted(stats)]


def _bound(config: BuildConfig, plans: Sequence[ShardPlan]) -> str:
    """The time that a shard can take at worst: every URL hangs, and all lie on one host."""
    longest = max(plan.rows for plan in plans)
    turns = -(-longest // min(config.connections, config.connections_per_host))
    bound = turns * longest_url_s(config.timeout, config.retries)
    return f"build  {len(plans):,} shards to do; each ends within {duration(bound)}, even if every host hangs"


def _yield(stats: Iterable[ShardStats]) -> str:
    counts = Counter[str]()
    for shard in stats:
        counts.update(rows=shard.rows, samples=shard.samples)
    return f"{100 * counts['samples'] / counts['rows']:.1f}% ok" if counts["rows"] else ""


def build_manifest(stats: Sequence[ShardStats], settings: dict[str, object]) -> Manifest:
    """The manifest of a dataset of these shards, in their order."""
    counts = Counter[str]()
    for shard in stats:
        counts.update(shard.status_counts)
    return Manifest(
        format_version=FORMAT_VERSION,
        settings=settings,
        shard_rows=tuple(shard.rows for shard in stats),
        shard_samples=tuple(shard.samples for shard in stats),
        status_counts=dict(sorted(counts.items())),
        total_bytes=sum(facts.size_bytes for shard in stats for facts in shard.files.values()),
    )
