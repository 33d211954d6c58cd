"""Says how many files and sockets this process may open, and what to do when there are too few."""

import contextlib
import errno
import resource

from infra.errors import MachineError

# What the system answers when it, or this process, has no more of something: no fault of who is asked for.
SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


def require_open_files(needed: int) -> None:
    """Lets this process open as many files as the system allows. Raises MachineError when those are too few."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
    if soft != resource.RLIM_INFINITY and soft < needed:
        raise MachineError(
            f"A process on this machine may have {soft:,} files and connections open.",
            f"The shards that it builds at once need up to {needed:,}.",
            "Raise the limit (ulimit -Hn, or LimitNOFILE of the service), or lower build.connections.",
        )


def is_shortage(error: OSError) -> bool:
    """Whether the machine lacked something."""
    return error.errno in SHORTAGES


def shortage(error: OSError) -> MachineError:
    """The user's error for what could not be opened."""
    return MachineError(
        f"This machine could not open one more file or connection ({error.strerror}).",
        "What was finished before is kept; nothing that is missing for this is counted as the web's failure.",
        "Raise the limit of open files (ulimit -n) or lower build.connections, and run the same command again.",
    )
