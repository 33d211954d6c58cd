"""Makes a shard's files and its marker appear as one: two attempts never leave a mixture that counts as committed."""

import contextlib
import fcntl
import os
from collections.abc import Iterator, Mapping, Sequence

from datapipe.dataset import shard_name
from datapipe.marker import STATS_SUFFIX, FileFacts, ShardStats
from infra.errors import StorageFailed
from infra.files import FileEntry
from infra.s3_objects import S3Objects
from infra.staged import StagedFile
from infra.storage import Storage, sha256_in

COMMIT_TRIES = 5


def commit_shard(output: Storage, stats: ShardStats, staged: Sequence[StagedFile]) -> ShardStats:
    """Publishes the files, then the marker that vouches for them; returns what is now committed.

    When another attempt at the shard has been first, its files stay and these are not published.
    Raises OutputError and StorageFailed.
    """
    facts = {file.path: FileFacts(file.stream.size_bytes, file.stream.sha256()) for file in staged}
    if output.s3 is not None:
        return _commit_objects(output, output.s3, stats.with_files(facts), staged)
    with _commit_lock(output):
        return _commit_files(output, stats.with_files(facts), staged)


def committed_shard(output: Storage, shard: int, listed: Mapping[str, FileEntry] | None = None) -> ShardStats | None:
    """The shard's marker if it is there and the files are those that it vouches for; None otherwise.

    `listed` is the folder's listing, where one has been made.
    """
    marker = marker_name(shard)
    if listed is not None and marker not in listed:
        return None
    try:
        stats = ShardStats.from_json(shard, output.read_bytes(marker))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        # Not one of ours, or damaged: the shard is made again.
        return None
    return stats if has_its_files(output, stats, listed) else None


def has_its_files(output: Storage, stats: ShardStats, listed: Mapping[str, FileEntry] | None = None) -> bool:
    """Whether the files are those that the marker vouches for."""
    entries = {name: listed.get(name) if listed is not None else output.info(name) for name in stats.files}
    return all(_is(output, entries[name], facts) for name, facts in stats.files.items())


def marker_name(shard: int) -> str:
    """`00003_stats.json` for 3."""
    return f"{shard_name(shard)}{STATS_SUFFIX}"


def _is(output: Storage, entry: FileEntry | None, facts: FileFacts) -> bool:
    """Whether a file is the one that was committed."""
    if entry is None or entry.size_bytes != facts.size_bytes:
        return False
    if facts.version is None or entry.version in (None, facts.version):
        return True
    # Copied to another bucket, or overwritten by another attempt: the bytes tell.
    return sha256_in(output, entry.path) == facts.sha256


def _commit_files(output: Storage, stats: ShardStats, staged: Sequence[StagedFile]) -> ShardStats:
    present = committed_shard(output, stats.shard)
    if present is not None:
        return present
    output.delete(marker_name(stats.shard))  # one that does not vouch must not come to vouch for what follows
    for file in staged:
        file.publish()
    output.write_bytes(marker_name(stats.shard), stats.to_json())
    return stats


@contextlib.contextmanager
def _commit_lock(output: Storage) -> Iterator[None]:
    """One commit at a time in a local folder, of all processes; the lock is on the folder, and leaves no file."""
    descriptor = os.open(output.local_path(), os.O_RDONLY) if output.is_local else None
    try:
        if descriptor is not None:
            with contextlib.suppress(OSError):  # some network file systems lock no folders
                fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _commit_objects(output: Storage, objects: S3Objects, stats: ShardStats, staged: Sequence[StagedFile]) -> ShardStats:
    """Objects have no lock: so each attempt looks, after its marker, whether the files are still its own."""
    for _ in range(COMMIT_TRIES):
        present = committed_shard(output, stats.shard)
        if present is not None:
            return present
        before = objects.info(marker_name(stats.shard))
        versions = {file.path: file.publish() for file in staged}
        ours = stats.with_versions(versions)
        if _write_marker(objects, ours, before) and committed_shard(output, stats.shard) == ours:
            return ours
    raise StorageFailed(
        f"{output.url}: shard {stats.shard} was overwritten by another builder {COMMIT_TRIES} times.",
        "One build at a time writes a dataset.",
        "Stop the other one, and run the same command again: it goes on.",
    )


def _write_marker(objects: S3Objects, stats: ShardStats, before: FileEntry | None) -> bool:
    name, data = marker_name(stats.shard), stats.to_json()
    if before is not None and before.version is not None:
        return objects.replace(name, data, before.version) is not None
    return objects.create(name, data) is not None
