"""Copies a checkpoint out of object storage to a node's disk, once for all ranks there, which share the work."""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from infra.session_folder import session_folder, sweep_dead_sessions, this_machine
from infra.storage import Storage, storage_of
from training.agreement import all_of, rank_and_ranks
from training.checkpoint import MARKER_FILE, copy_file, read_files


@contextmanager
def on_this_node(checkpoint: Storage) -> Iterator[Storage]:
    """The checkpoint on a disk of this node, for the length of the block; a local one as it is.

    Every rank enters at once, and no copy goes before all have left. Tensors that were read in the block stay good.
    """
    if checkpoint.is_local:
        yield checkpoint
        return
    with ExitStack() as stack:
        folder, share, shares = _folder_of_node(stack)
        _copy_share(checkpoint, folder, share, shares)
        all_of(None)  # all of it is there
        yield storage_of(folder)
        all_of(None)  # nobody opens it any more


def _folder_of_node(stack: ExitStack) -> tuple[Path, int, int]:
    """The folder that this rank shares, its number among those that share it, and how many they are.

    Who sees a folder is asked of the file system: two containers may bear one machine's name.
    """
    rank, _ = rank_and_ranks()
    machines = all_of(this_machine())
    own = _make_folder(stack) if machines.index(machines[rank]) == rank else None
    offered = [folder for folder in all_of(own) if folder is not None]
    seen = next((folder for folder in offered if Path(folder).exists()), None) or _make_folder(stack)
    used = all_of(seen)
    sharing = [other for other, folder in enumerate(used) if folder == seen]
    return Path(seen), sharing.index(rank), len(sharing)


def _make_folder(stack: ExitStack) -> str:
    sweep_dead_sessions()
    return str(stack.enter_context(session_folder("checkpoint-", Path(tempfile.gettempdir()))))


def _copy_share(checkpoint: Storage, folder: Path, share: int, shares: int) -> None:
    by_size = sorted(read_files(checkpoint).items(), key=lambda item: (-item[1].size_bytes, item[0]))
    names = [MARKER_FILE, *(name for name, _ in by_size)]
    for name in names[share::shares]:
        copy_file(checkpoint, name, folder)
