"""Makes sure that every node of a training sees the run's folder, before one of them writes to it.

A local folder that is not mounted everywhere would be another one on each node: parts of a checkpoint that never come
together, or a rank 0 that finds no checkpoint and begins anew.
"""

from secrets import token_hex

from infra.errors import ConfigError
from infra.patience import comes_true
from infra.storage import Storage
from training.agreement import all_of

SIGHT_FILE = "sight"  # holds a word that only the driver knows


def show_run(run: Storage) -> str | None:
    """Writes a new word into the run's folder, for `require_sight`; None for object storage, which all nodes see."""
    if not run.is_local:
        return None
    word = token_hex(8)
    run.write_bytes(SIGHT_FILE, word.encode())
    return word


def require_sight(run: Storage, word: str | None, node: str, *, patience_s: float) -> None:
    """Raises ConfigError on every rank when some do not find the driver's word. Every rank calls it at once.

    node: this rank's, in words. patience_s: for a file system that shows late what another machine has written.
    """
    if word is None:
        return
    is_seen = comes_true(lambda: _read(run) == word, patience_s)
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
