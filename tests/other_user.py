"""Another user than the one who runs the tests, whom permissions bind; root itself may read all."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

NOBODY = 65534


@contextlib.contextmanager
def as_other_user() -> Iterator[None]:
    """The block's file accesses are those of a user without rights; for others than root, they are already.

    What the block imports has to be imported before: this Python may lie in root's home.
    """
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@contextlib.contextmanager
def public_folder() -> Iterator[Path]:
    """A folder that every user can reach, other than pytest's own."""
    folder = Path(tempfile.mkdtemp(prefix="test-of-permissions-"))
    try:
        folder.chmod(0o755)
        yield folder
    finally:
        for place in folder.rglob("*"):
            if place.is_dir():
                place.chmod(0o700)
        shutil.rmtree(folder)
