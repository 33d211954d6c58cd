"""Draws distributions of sizes, one above the other on one axis, as an SVG picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from orchestrator.report.markup import Html, el, join
from orchestrator.report.scales import Scale, size_scale, tick_labels

WIDTH = 340
ROWS_HEIGHT = 208  # shared by the rows
HEADING_HEIGHT = 36
AXIS_HEIGHT = 26
SIDE = 12
BINS = 26
GAP = 1.5  # between bars
LEAST_HEIGHT = 1.5  # a single picture is still seen


@dataclass(frozen=True, slots=True)
class Distribution:
    """One row of the picture: its name, its values, and what is written at its right.

    `counts` has one number a value: how often it was seen; None for once.
    """

    name: str
    values: npt.NDArray[np.float64]
    note: str
    counts: npt.NDArray[np.int64] | None = None


def histogram(label: str, unit: str, rows: Sequence[Distribution]) -> Html:
    """The rows as inline SVG on one axis; each row's highest bar fills it."""
    scale = size_scale([float(edge) for row in rows for edge in (row.values.min(), row.values.max())])
    height = ROWS_HEIGHT + AXIS_HEIGHT
    room = ROWS_HEIGHT / len(rows)
    return el(
        "svg",
        *(_row(row, scale, index * room, room, unit) for index, row in enumerate(rows)),
        _axis(scale, height),
        class_="plot",
        viewBox=f"0 0 {WIDTH} {height}",
        role="img",
        aria_label=label,
    )


def bin_edges(scale: Scale, bins: int = BINS) -> npt.NDArray[np.float64]:
    """Equally wide bins of the axis, as values."""
    if scale.is_log:
        return np.geomspace(scale.low, scale.high, bins + 1)
    return np.linspace(scale.low, scale.high, bins + 1)


def _row(row: Distribution, scale: Scale, top: float, room: float, unit: str) -> Html:
    edges = bin_edges(scale)
    # Rounding of the outermost edges must not lose the extremes.
    counts, _ = np.histogram(np.clip(row.values, edges[0], edges[-1]), edges, weights=row.counts)
    decimals = 0 if scale.high - scale.low > BINS else 2
    base, highest = top + room, room - HEADING_HEIGHT
    bars = [
        el(
            "rect",
            el("title", f"{low:,.{decimals}f}–{high:,.{decimals}f} {unit}: {count:,} pictures"),
            **_bar_box(scale, float(low), float(high), base, highest * int(count) / int(counts.max())),
            rx=1.5,
            class_=f"bar bar-{row.name}",
        )
        for (low, high), count in zip(pairwise(edges), counts, strict=True)
        if count
    ]
    return join(
        el("text", row.name, x=SIDE, y=top + HEADING_HEIGHT - 12, class_="row-name"),
        el("text", row.note, x=WIDTH - SIDE, y=top + HEADING_HEIGHT - 12, text_anchor="end"),
        *bars,
        el("line", x1=SIDE, x2=WIDTH - SIDE, y1=base, y2=base, class_="base"),
    )


def _bar_box(scale: Scale, low: float, high: float, base: float, height: float) -> dict[str, float]:
    left, right = _x(scale, low), _x(scale, high)
    seen = max(LEAST_HEIGHT, height)
    return {"x": left + GAP / 2, "y": base - seen, "width": right - left - GAP, "height": seen}


def _axis(scale: Scale, height: float) -> Html:
    labels = tick_labels(scale.ticks)
    last = len(labels) - 1
    return join(
        *(
            el("text", label, x=_x(scale, tick), y=height - 8, text_anchor=_anchor(index, last))
            for index, (tick, label) in enumerate(zip(scale.ticks, labels, strict=True))
        )
    )


def _anchor(index: int, last: int) -> str:
    """The outermost labels stay inside the picture."""
    return {0: "start", last: "end"}.get(index, "middle")


def _x(scale: Scale, value: float) -> float:
    return SIDE + scale.place(value) * (WIDTH - 2 * SIDE)
