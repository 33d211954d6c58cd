"""Draws progress on a stream: a live bar on a terminal, plain lines in a log, JSON lines for a machine."""

import json
import time
from collections.abc import Callable
from enum import StrEnum
from io import TextIOBase
from typing import IO, TYPE_CHECKING, Any, Protocol, TextIO, cast

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from infra.terminal import BestEffort, printable

if TYPE_CHECKING:
    from infra.progress import StageSnapshot

PLAIN_LINE_EVERY_S = 10.0  # a log file stays readable
JSON_LINE_EVERY_S = 1.0


class ProgressForm(StrEnum):
    """How progress is shown: `auto` is for people (a bar on a terminal, lines elsewhere), `json` for machines."""

    AUTO = "auto"
    JSON = "json"


class Display(Protocol):
    """What shows the progress of one stage after another. `force` asks for a line now, whatever was shown last."""

    def start(self) -> None:
        """A stage begins."""

    def show(self, snapshot: "StageSnapshot", *, force: bool) -> None:
        """The stage has got this far."""

    def note(self, text: str) -> None:
        """Says what stays readable."""

    def end(self, snapshot: "StageSnapshot", summary: str) -> None:
        """The stage has ended."""

    def stop(self) -> None:
        """Lets go of the stream."""


def display_on(stream: TextIO, form: ProgressForm) -> Display:
    """The display of this form that suits the stream. A stream that is lost costs the display, and not the work."""
    lasting = cast("TextIO", BestEffort(stream))
    if form is ProgressForm.JSON:
        return JsonLines(lasting)
    console = Console(file=lasting, highlight=False, emoji=False, soft_wrap=True)
    return LiveBar(console) if console.is_terminal else PlainLines(console)


def plain_lines(stream: IO[str] | TextIOBase) -> Display:
    """Lines for a log, whatever the stream is."""
    file = cast("IO[str]", stream)
    console = Console(file=file, highlight=False, emoji=False, soft_wrap=True, force_terminal=False, width=1000)
    return PlainLines(console)


class JsonLines:
    """One JSON object a line. `event` is progress, note or end, `at` the time of day in Unix seconds."""

    def __init__(self, stream: TextIO, wall_clock: Callable[[], float] = time.time) -> None:
        self._stream = stream
        self._wall_clock = wall_clock
        self._shown_at = 0.0

    def start(self) -> None:
        """The first `show` of a stage is forced: nothing to do."""

    def show(self, snapshot: "StageSnapshot", *, force: bool) -> None:
        """About one line a second."""
        if force or snapshot.elapsed_s - self._shown_at >= JSON_LINE_EVERY_S:
            self._shown_at = snapshot.elapsed_s
            self._write("progress", snapshot.to_json())

    def note(self, text: str) -> None:
        """A line of its own."""
        self._write("note", {"text": text})

    def end(self, snapshot: "StageSnapshot", summary: str) -> None:
        """The last numbers, with the summary."""
        self._write("end", {**snapshot.to_json(), "summary": summary})

    def stop(self) -> None:
        """Nothing is held."""

    def _write(self, event: str, value: dict[str, Any]) -> None:
        # ASCII: a line stays one line for every reader, and half a surrogate pair breaks no encoding.
        self._stream.write(json.dumps({"event": event, "at": self._wall_clock(), **value}) + "\n")
        self._stream.flush()


class PlainLines:
    """One line every ten seconds, as a log file can hold them."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._shown_at = 0.0

    def start(self) -> None:
        """The first `show` of a stage is forced: nothing to do."""

    def show(self, snapshot: "StageSnapshot", *, force: bool) -> None:
        """A line, if it is time for one."""
        if force or snapshot.elapsed_s - self._shown_at >= PLAIN_LINE_EVERY_S:
            self._shown_at = snapshot.elapsed_s
            self._console.print(printable(snapshot.line()), markup=False)

    def note(self, text: str) -> None:
        """The note's lines."""
        self._console.print(_printable_lines(text), markup=False)

    def end(self, snapshot: "StageSnapshot", summary: str) -> None:
        """The summary."""
        self._console.print(_end_line(snapshot, summary))

    def stop(self) -> None:
        """Nothing is held."""


class LiveBar:
    """A bar that is drawn over and over at the bottom of a terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None

    def start(self) -> None:
        """A new bar."""
        self.stop()
        self._live = Live(console=self._console, transient=True, auto_refresh=False)
        self._live.start()

    def show(self, snapshot: "StageSnapshot", *, force: bool) -> None:
        """Draws the bar anew."""
        if self._live is not None:
            self._live.update(_bar(snapshot), refresh=True)

    def note(self, text: str) -> None:
        """The note's lines above the bar."""
        self._console.print(_printable_lines(text), markup=False)

    def end(self, snapshot: "StageSnapshot", summary: str) -> None:
        """The summary in place of the bar."""
        self.stop()
        self._console.print(_end_line(snapshot, summary))

    def stop(self) -> None:
        """Takes the bar away."""
        if self._live is not None:
            self._live.stop()
            self._live = None


def _bar(snapshot: "StageSnapshot") -> Table:
    row = Table.grid(padding=(0, 1))
    bar = ProgressBar(total=snapshot.total or None, completed=snapshot.done, width=24, pulse=not snapshot.total)
    words = printable(snapshot.line().removeprefix(snapshot.stage).strip())
    row.add_row(Text(snapshot.stage, style="bold"), bar, Text(words))
    return row


def _end_line(snapshot: "StageSnapshot", summary: str) -> Text:
    return Text.assemble(("✓", "green"), f" {snapshot.stage}  {printable(summary)}  ", (f"({snapshot.took})", "dim"))


def _printable_lines(text: str) -> str:
    return "\n".join(printable(line) for line in text.splitlines())
