"""Maps values to places on an axis and chooses its ticks."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
LOG_FROM_RATIO = 12.0  # from here on a linear axis squeezes the small values together
MAX_LOG_TICKS = 6


@dataclass(frozen=True, slots=True)
class Scale:
    """An axis from `low` to `high`, with its ticks in rising order."""

    low: float
    high: float
    ticks: tuple[float, ...]
    is_log: bool = False

    def place(self, value: float) -> float:
        """Where on the axis: 0 at `low`, 1 at `high`; values beyond are moved to the ends."""
        low, high, inside = self.low, self.high, min(max(value, self.low), self.high)
        if self.is_log:
            low, high, inside = math.log(low), math.log(high), math.log(inside)
        return (inside - low) / (high - low)


def rounded_scale(values: Sequence[float], ticks: int = 5) -> Scale:
    """A linear axis whose ends are ticks."""
    low, high = _widened(min(values), max(values))
    step = nice_step((high - low) / ticks)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    places = tuple(_clean(index * step) for index in range(first, last + 1))
    return Scale(places[0], places[-1], places)


def exact_scale(values: Sequence[float], ticks: int = 6) -> Scale:
    """A linear axis from the least to the greatest value, with round ticks between."""
    low, high = _widened(min(values), max(values))
    step = nice_step((high - low) / ticks)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return Scale(low, high, tuple(_clean(index * step) for index in range(first, last + 1)))


def size_scale(values: Sequence[float]) -> Scale:
    """An axis for sizes above 0: logarithmic when they differ widely."""
    low, high = min(values), max(values)
    if low <= 0 or high / low < LOG_FROM_RATIO:
        return rounded_scale([low, high])
    ticks = _log_ticks(low, high)
    return Scale(low, high, ticks, is_log=True)


def nice_step(least: float) -> float:
    """The least of 1, 2, 2.5, 5 times a power of ten that is not below `least`."""
    power = 10.0 ** math.floor(math.log10(least))
    return next((step * power for step in STEPS if step * power >= least * (1 - 1e-9)), 10 * power)


def tick_labels(ticks: Sequence[float]) -> list[str]:
    """The ticks as text, all with as many decimals as the finest needs."""
    step = min((b - a for a, b in pairwise(ticks)), default=1.0)
    if step < 1e-6:
        return [f"{tick:.3g}" for tick in ticks]
    decimals = next(count for count in range(8) if all(_has_decimals(tick, count) for tick in ticks))
    return [f"{tick:,.{decimals}f}" for tick in ticks]


def _widened(low: float, high: float) -> tuple[float, float]:
    """A range that is not empty, also around a single value."""
    if high - low > 1e-9 * max(abs(low), abs(high), 1e-300):
        return low, high
    room = abs(low) / 10 or 1.0
    return low - room, high + room


def _clean(value: float) -> float:
    return float(f"{value:.10g}")


def _has_decimals(value: float, decimals: int) -> bool:
    return abs(round(value, decimals) - value) < 1e-8 or decimals == 7


def _log_ticks(low: float, high: float) -> tuple[float, ...]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    fine = [step * 10.0**power for power in powers for step in (1.0, 2.0, 5.0)]
    inside = [tick for tick in fine if low <= tick <= high]
    if len(inside) <= MAX_LOG_TICKS:
        return tuple(inside)
    tens = [tick for tick in inside if math.log10(tick).is_integer()]
    every = math.ceil(len(inside) / MAX_LOG_TICKS)
    return tuple(tens) if 3 <= len(tens) <= MAX_LOG_TICKS + 2 else tuple(inside[::every])
