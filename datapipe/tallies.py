"""Counts values and names of any number in bounded memory."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

DIGITS = 4  # significant digits of a counted value: sizes up to 9,999 are exact
KEPT_NAMES = 100_000  # up to twice as many hosts are held, measured at 70 MB
QUANTILES = {"least": 0.0, "p05": 0.05, "p25": 0.25, "median": 0.5, "p75": 0.75, "p95": 0.95, "greatest": 1.0}
ROOM = 2  # times as many are held before the rarest are let go of


class ValueTally:
    """How often each value was seen, values above 0 to four significant digits; at most 9,000 a power of ten."""

    def __init__(self) -> None:
        self._counts: Counter[float] = Counter()

    def add(self, values: npt.NDArray[np.float64]) -> None:
        """Counts the values; those that are not finite and above 0 are left out."""
        good = values[np.isfinite(values) & (values > 0)]
        if len(good):
            exponents = DIGITS - 1 - np.floor(np.log10(good))
            rounded, counts = np.unique(np.round(good * 10.0**exponents) / 10.0**exponents, return_counts=True)
            for value, count in zip(rounded.tolist(), counts.tolist(), strict=True):
                self._counts[value] += count

    def distribution(self) -> "Distribution":
        """The values in rising order with their counts."""
        ordered = sorted(self._counts.items())
        return Distribution(tuple(value for value, _ in ordered), tuple(count for _, count in ordered))


@dataclass(frozen=True, slots=True)
class Distribution:
    """Distinct values in rising order, and how often each was seen."""

    values: tuple[float, ...]
    counts: tuple[int, ...]

    @property
    def total(self) -> int:
        """How many values were counted."""
        return sum(self.counts)

    def quantile(self, share: float) -> float:
        """The least value that at least `share` of all do not exceed. There must be one."""
        return self.quantiles([share])[0]

    def quantiles(self, shares: Sequence[float] = tuple(QUANTILES.values())) -> list[float]:
        """`quantile` of each share; by default those of QUANTILES."""
        places = np.cumsum(self.counts)
        wanted = [max(1, int(np.ceil(share * places[-1] - 1e-9))) for share in shares]
        return [self.values[int(index)] for index in np.searchsorted(places, wanted)]


@dataclass(slots=True)
class NameCount:
    """Rows of one name: how many, and the failed ones by status."""

    rows: int = 0
    failures: Counter[str] = field(default_factory=Counter)

    @property
    def samples(self) -> int:
        """Rows that did not fail."""
        return self.rows - self.failures.total()


class NameTally:
    """Rows by name and status, of the `kept` most frequent names.

    When twice as many are held, the rarer half is let go of, and a name that comes again begins at zero. So the
    counts are exact while there are fewer names than that; beyond, each may be too low by at most `missed_at_most`.
    """

    def __init__(self, kept: int = KEPT_NAMES) -> None:
        self._kept = kept
        self._names: dict[str, NameCount] = {}
        self.missed_at_most = 0  # rows a name
        self.let_go = 0  # names, those that came again counted again

    def __len__(self) -> int:
        return len(self._names)

    def add(self, name: str, failure: str | None, rows: int) -> None:
        """Counts rows of one name that failed for one reason, or were good."""
        count = self._names.get(name)
        if count is None:
            if len(self._names) >= ROOM * self._kept:
                self._let_go_of_the_rarest()
            count = self._names[name] = NameCount()
        count.rows += rows
        if failure is not None:
            count.failures[failure] += rows

    def most_frequent(self, wanted: int) -> Iterator[tuple[str, NameCount]]:
        """The names with most rows, the first ones first; names of equal rows in alphabetical order."""
        yield from self._ordered()[:wanted]

    def _ordered(self) -> list[tuple[str, NameCount]]:
        return sorted(self._names.items(), key=lambda item: (-item[1].rows, item[0]))

    def _let_go_of_the_rarest(self) -> None:
        ordered = self._ordered()
        self.missed_at_most += ordered[self._kept][1].rows
        self.let_go += len(ordered) - self._kept
        self._names = dict(ordered[: self._kept])
