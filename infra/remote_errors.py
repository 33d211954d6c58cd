"""Finds the error of ours inside those that Ray wraps around it on its way between processes."""

from infra.errors import DiptychError

MAX_DEPTH = 20


def unwrapped(error: BaseException) -> DiptychError | None:
    """The first DiptychError among the error, its causes and what Ray keeps in `cause` or per worker; or None."""
    waiting, seen = [error], 0
    while waiting and seen < MAX_DEPTH:
        current = waiting.pop(0)
        seen += 1
        # Ray's own copy is an instance of the error's class too; the error itself is its `cause`.
        if isinstance(current, DiptychError) and not hasattr(current, "cause"):
            return current
        inner = [getattr(current, "cause", None), current.__cause__, current.__context__]
        inner += list((getattr(current, "worker_failures", None) or {}).values())
        inner.append(getattr(current, "controller_failure", None))
        waiting += [part for part in inner if isinstance(part, BaseException)]
    return None
