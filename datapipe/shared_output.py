"""Makes sure that the nodes of a build and its driver write to one folder, where their output is a local path."""

import contextlib
import socket

from datapipe.commit import marker_name
from infra.errors import OutputError, StageFailed
from infra.lease import LEASE_FILE
from infra.patience import SEEN_WITHIN_S, comes_true
from infra.storage import Storage

ALLOWED = (
    "All nodes and the machine that drives the build write to one folder, which all mount at the same path, or to S3."
)
FIX = "Put build.output there, for example build.output=s3://bucket/datasets/birds, and run the command again."


def mark_of(output: Storage) -> bytes | None:
    """What tells its driver's folder apart from all others: the lease in it. None where no node can have another."""
    if output.is_local:
        with contextlib.suppress(FileNotFoundError):
            return output.read_bytes(LEASE_FILE)
    return None


def require_same_folder(output: Storage, mark: bytes | None) -> None:
    """Raises OutputError on a node whose folder is not the driver's, before it writes a shard that nobody will find."""
    if mark is not None and not comes_true(lambda: mark_of(output) == mark, SEEN_WITHIN_S):
        node = socket.gethostname()
        raise OutputError(f"build.output: the node {node} does not see the driver's folder {output.url}.", ALLOWED, FIX)


def require_all_seen(output: Storage, shards: int) -> None:
    """Raises StageFailed where the driver does not see the markers of that many shards, all of them committed."""
    expected = {marker_name(shard) for shard in range(shards)}
    missing: set[str] = set()

    def all_seen() -> bool:
        missing.clear()
        missing.update(expected - {entry.path for entry in output.list_files()})
        return not missing

    if not comes_true(all_seen, SEEN_WITHIN_S):
        raise StageFailed(
            f"build.output: of {shards:,} written shards {len(missing):,} are not in {output.url} as this machine "
            f"sees it (there is no {min(missing)}): the dataset is not finished.",
            ALLOWED,
            FIX,
        )
