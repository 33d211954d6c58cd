"""Reads the lines of a TSV file as fields, whether it was written with quoting or without.

Lists of captions from the web (CC12M's) have quotes as they came, others are quoted as CSV is. Each line tells:

- A field is quoted when it begins with a quote and its text ends with one, before a tab or the end of the line; within
  it two quotes are one. All other quotes are the field's own.
- A line that has another number of fields than the header, but the same when it is split at each tab, is split so.
- A quoted text that does not end on its line goes on to where it does, in a later line. But a line that is a row by
  itself (as many fields as the header has, with `://` in the column of URLs) is not taken in: not where it leaves that
  text open, nor by another such line.
"""

import csv
import re
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

QUOTED = re.compile(r'"([^"]*(?:""[^"]*)*)"(?=\t|\Z)')
OPEN = re.compile(r'"[^"]*(?:""[^"]*)*\Z')
MAY_CLOSE = re.compile(r'[^"]*(?:""[^"]*)*"(?!")')  # a line with a quote that is not one of two
MAX_LINES = 10_000  # of one quoted text: what is longer has lost its quote


@dataclass(frozen=True, slots=True)
class _Line:
    """The fields of a text; the first that begins with a quote that does not end; whether one is torn over lines."""

    fields: list[str]
    open_at: int | None
    open_place: int
    is_torn: bool


class TsvReader:
    """The fields of the header, then those of each row. Raises csv.Error for a header that is quoted wrongly."""

    def __init__(self, lines: Iterator[str], url_col: str) -> None:
        self.line_num = 0
        self._lines = lines
        self._ahead = deque[str]()
        self._url_col = url_col
        self._width = 0
        self._url_place: int | None = None

    def __iter__(self) -> Iterator[list[str]]:
        first = csv.reader(self._lines, delimiter="\t", strict=True)
        header = next(first, [])
        self.line_num, self._width = first.line_num, len(header)
        self._url_place = header.index(self._url_col) if self._url_col in header else None
        yield header
        while (line := self._take()) is not None:
            yield self._row(line)

    def _take(self) -> str | None:
        line = self._ahead.popleft() if self._ahead else next(self._lines, None)
        self.line_num += line is not None
        return line

    def _row(self, line: str) -> list[str]:
        text = line.rstrip("\r\n")
        plain = text.split("\t") if text else []
        if '\t"' not in text and not text.startswith('"'):
            return plain
        found = _split(text)
        if found.open_at is not None and (fields := self._over_lines(line, found)) is not None:
            return fields
        return plain if len(plain) == self._width != len(found.fields) else found.fields

    def _over_lines(self, line: str, begun: _Line) -> list[str] | None:
        """The fields up to the line in which the quoted texts end; None when they end nowhere, and take no line."""
        taken = [line]
        before, still_open = begun.fields[: begun.open_at], [line[begun.open_place :]]
        while len(taken) < MAX_LINES and (more := self._take()) is not None:
            taken.append(more)
            still_open.append(more)
            # Only what is open is split anew, and only where it may close: each line is read once or twice.
            text = "".join(still_open) if MAY_CLOSE.match(more) else ""
            found = _split(text.rstrip("\r\n"), before) if text else None
            if self._is_row(more) and (found is None or found.open_at == len(before) or self._is_row(line)):
                break
            if found is not None:
                if found.open_at is None and not found.is_torn and len(found.fields) <= self._width:
                    return found.fields
                if found.open_at is None or found.is_torn or found.open_at >= self._width:
                    break
                before, still_open = found.fields[: found.open_at], [text[found.open_place :]]
        self._ahead.extendleft(reversed(taken[1:]))
        self.line_num -= len(taken) - 1
        return None

    def _is_row(self, line: str) -> bool:
        fields = line.split("\t")
        return len(fields) == self._width and (self._url_place is None or "://" in fields[self._url_place])


def _split(text: str, before: Sequence[str] = ()) -> _Line:
    """The fields of a line, or of what follows the fields before."""
    fields, place, open_at, open_place, is_torn = list(before), -1, None, 0, False
    while place < len(text):
        place += 1
        if quoted := QUOTED.match(text, place):
            fields.append(quoted[1].replace('""', '"'))
            place = quoted.end()
            continue
        if open_at is None and OPEN.match(text, place):
            open_at, open_place = len(fields), place
        end = text.find("\t", place)
        fields.append(text[place : end if end >= 0 else len(text)])
        is_torn = is_torn or (open_at is None and ("\n" in fields[-1] or "\r" in fields[-1]))
        place += len(fields[-1])
    return _Line(fields, open_at, open_place, is_torn)
