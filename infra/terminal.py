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


class BestEffort:
    """A text stream that may be lost at any moment: what it does not take costs that text, and not the work."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    @property
    def encoding(self) -> str | None:
        """That of the stream."""
        return self._stream.encoding

    def isatty(self) -> bool:
        """Whether the stream is a terminal."""
        return self._stream.isatty()

    def write(self, text: str) -> int:
        """Takes the text, whatever becomes of it. It is tried each time: a disk may have room again."""
        with contextlib.suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Hands on what is taken, if it can be."""
        with contextlib.suppress(OSError):
            self._stream.flush()


@contextlib.contextmanager
def quiet(log: Path) -> Iterator[Terminal]:
    """Sends file descriptors 1 and 2, also of child processes, to `log`; gives back the user's terminal."""
    log.parent.mkdir(parents=True, exist_ok=True)
    flush_or_drop(sys.stdout, 1)
    flush_or_drop(sys.stderr, 2)
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
        flush_or_drop(sys.stdout, 1)
        flush_or_drop(sys.stderr, 2)
        for stream in (out, err):
            with contextlib.suppress(OSError):  # it is closed in any case
                stream.close()
        os.dup2(saved_out, 1)
        os.dup2(saved_err, 2)
        os.close(saved_out)
        os.close(saved_err)


def flush_or_drop(stream: TextIO, descriptor: int) -> None:
    """Hands on what a standard stream still holds; where that can't be, it goes nowhere, and so does what comes after.

    Held on to, it would come out wherever the descriptor leads next, and end the process with a code of Python's own.
    """
    try:
        stream.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, descriptor)
        os.close(nowhere)
        with contextlib.suppress(OSError):
            stream.flush()


def printable(text: str) -> str:
    """The text on one line, safe for a terminal: control, format and private characters as their escapes.

    So no value from the web can move the cursor, change colours, reverse the line or fake another line.
    """
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
