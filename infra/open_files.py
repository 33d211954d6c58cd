"""Says how many files and sockets this process may open, and what to do when there are too few."""

import contextlib
import errno
import math
import resource

from infra.errors import MachineError

# What the system answers when it, or this process, has no more of something: no fault of who is asked for.
SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EAGAIN})


def allowed_open_files() -> float:
    """Lets this process open as many files as the system allows, and says how many those are."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
    return math.inf if soft == resource.RLIM_INFINITY else soft


def require_open_files(needed: int) -> None:
    """Raises MachineError when this process may not open so many."""
    allowed = allowed_open_files()
    if allowed < needed:
        raise MachineError(
            f"A process on this machine may have {allowed:,.0f} files and connections open.",
            f"A shard that it builds needs up to {needed:,}.",
            "Raise the limit (ulimit -Hn, or LimitNOFILE of the service), or lower build.connections.",
        )


def is_shortage(error: OSError) -> bool:
    """Whether the machine lacked something."""
    return error.errno in SHORTAGES


def shortage(error: OSError) -> MachineError:
    """The user's error for what could not be opened or started."""
    return MachineError(
        f"This machine could not open one more file or connection, or start one more process ({error.strerror}).",
        "What was finished before is kept; nothing that is missing for this is counted as the web's failure.",
        "Raise the limit of open files (ulimit -n) or of processes (ulimit -u), or lower build.connections or "
        "build.tasks, and run the same command again.",
    )
