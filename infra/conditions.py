"""Tries whether an S3-compatible storage keeps its promise of conditional writes: some ignore them silently."""

import secrets
from functools import lru_cache

from infra.errors import DiptychError, OutputError
from infra.s3_objects import S3Objects


@lru_cache(maxsize=64)
def honours_conditions(url: str) -> bool:
    """Whether `If-None-Match` and `If-Match` are honoured below `s3://bucket/prefix`; asked once by each process.

    Raises OutputError and StorageFailed when the storage cannot be written at all.
    """
    objects, name = S3Objects(url), f"condition-check-{secrets.token_hex(8)}"
    objects.write_bytes(name, b"first")
    try:
        return not _is_created_twice(objects, name) and not _is_replaced_blindly(objects, name)
    finally:
        objects.delete([name])


def require_conditions(url: str) -> None:
    """Raises OutputError when the storage ignores conditional writes: two drivers could not be kept apart."""
    if not honours_conditions(url):
        raise OutputError(
            f"{url}: this storage ignores conditional writes (If-None-Match, If-Match).",
            "A place that several processes write to must honour them; Amazon S3, MinIO and SeaweedFS do.",
            "Choose another storage, or a local folder.",
        )


def _is_created_twice(objects: S3Objects, name: str) -> bool:
    try:
        return objects.create(name, b"second")
    except DiptychError:
        return True  # not known to the server: as good as ignored


def _is_replaced_blindly(objects: S3Objects, name: str) -> bool:
    try:
        if objects.replace(name, b"third", '"00000000000000000000000000000000"'):
            return True
        current = objects.info(name)
        return current is None or not objects.replace(name, b"fourth", current.version or "")
    except DiptychError:
        return True
