"""Makes sure that every node of a training sees the run's folder, before one of them writes to it.

A local folder that is not mounted everywhere would be another one on each node: parts of a checkpoint that never come
together, or a rank 0 that finds no checkpoint and begins anew.
"""

import time
from secrets import token_hex

from infra.errors import ConfigError
from infra.storage import Storage
from training.agreement import all_of

SIGHT_FILE = "sight"  # holds a word that only the driver knows
PATIENCE_S = 60.0  # a network file system's clients remember for so long what a folder held
LOOK_EVERY_S = 0.5


def show_run(run: Storage) -> str | None:
    """Writes a new word into the run's folder, for `require_sight`; None for object storage, which all nodes see."""
    if not run.is_local:
        return None
    word = token_hex(8)
    run.write_bytes(SIGHT_FILE, word.encode())
    return word


def require_sight(run: Storage, word: str | None, node: str, *, patience_s: float = PATIENCE_S) -> None:
    """Raises ConfigError on every rank when some do not find the driver's word. Every rank calls it at once.

    node: this rank's, in words.
    """
    if word is None:
        return
    until = time.monotonic() + patience_s
    while not (is_seen := _read(run) == word) and time.monotonic() < until:
        time.sleep(LOOK_EVERY_S)
    blind = sorted({where for where in all_of("" if is_seen else node) if where})
    if blind:
        raise ConfigError(
            f"storage: {', '.join(blind)} {'do' if len(blind) > 1 else 'does'} not see the run's folder {run.url}.",
            "The folder of a run on several nodes is in object storage, or in a folder that all nodes mount.",
            "Set storage=s3://… or storage to such a folder.",
        )


def _read(run: Storage) -> str | None:
    try:
        return run.read_bytes(SIGHT_FILE).decode()
    except FileNotFoundError:
        return None
