"""Keeps the user's terminal clean: what libraries and daemons print goes to a log file, what we say to the user."""

import contextlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO


@dataclass(frozen=True, slots=True)
class Terminal:
    """The user's own standard output and error, out of reach of what libraries print."""

    out: TextIO
    err: TextIO


@contextlib.contextmanager
def quiet(log: Path) -> Iterator[Terminal]:
    """Sends file descriptors 1 and 2, also of child processes, to `log`; gives back the user's terminal."""
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    saved_out, saved_err = os.dup(1), os.dup(2)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    out = os.fdopen(os.dup(saved_out), "w", encoding="utf-8", errors="replace")
    err = os.fdopen(os.dup(saved_err), "w", encoding="utf-8", errors="replace")
    try:
        yield Terminal(out, err)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        out.close()
        err.close()
        os.dup2(saved_out, 1)
        os.dup2(saved_err, 2)
        os.close(saved_out)
        os.close(saved_err)


def printable(text: str) -> str:
    """The text on one line, safe for a terminal: control, format and private characters as their escapes.

    So no value from the web can move the cursor, change colours, reverse the line or fake another line.
    """
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
