"""Tries whether an S3-compatible storage keeps its promise of conditional writes: some ignore them silently."""

import secrets
from functools import lru_cache

from infra.errors import OutputError
from infra.s3_objects import CHECK_PREFIX, S3Objects

OTHER_VERSION = '"00000000000000000000000000000000"'


@lru_cache(maxsize=64)
def honours_conditions(url: str) -> bool:
    """Whether `If-None-Match` and `If-Match` are honoured below `s3://bucket/prefix`; asked once by each process.

    Raises OutputError and StorageFailed when the storage cannot be written at all.
    """
    objects = S3Objects(url)
    while True:
        name = f"{CHECK_PREFIX}{secrets.token_hex(8)}"
        objects.write_bytes(name, b"first")
        honoured = not objects.create(name, b"second") and not objects.replace(name, b"third", OTHER_VERSION)
        info = objects.info(name)
        if info is None:
            continue  # swept meanwhile by another process: the answers mean nothing
        honoured = honoured and objects.replace(name, b"fourth", info.version or "") is not None
        objects.delete([name])
        return honoured


def require_conditions(url: str) -> None:
    """Raises OutputError when the storage ignores conditional writes: two drivers could not be kept apart."""
    if not honours_conditions(url):
        raise OutputError(
            f"{url}: this storage ignores conditional writes (If-None-Match, If-Match).",
            "A place that several processes write to must honour them; Amazon S3, MinIO and SeaweedFS do.",
            "Choose another storage, or a local folder.",
        )
