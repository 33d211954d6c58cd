"""Draws distributions of sizes, one above the other on one axis, as an SVG picture."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from orchestrator.report.markup import Html, el, join
from orchestrator.report.scales import Scale, size_scale, tick_labels

WIDTH = 340
ROW_HEIGHT = 92  # with its heading
BARS_HEIGHT = 58
AXIS_HEIGHT = 26
SIDE = 12
BINS = 26
GAP = 1.5  # between bars


@dataclass(frozen=True, slots=True)
class Distribution:
    """One row of the picture: its name, its values, and what is written at its right."""

    name: str
    values: npt.NDArray[np.float64]
    note: str


def histogram(label: str, unit: str, rows: Sequence[Distribution]) -> Html:
    """The rows as inline SVG on one axis; each row's highest bar fills it."""
    scale = size_scale([float(edge) for row in rows for edge in (row.values.min(), row.values.max())])
    height = len(rows) * ROW_HEIGHT + AXIS_HEIGHT
    return el(
        "svg",
        *(_row(row, scale, index * ROW_HEIGHT, unit, f"bar bar-{row.name}") for index, row in enumerate(rows)),
        _axis(scale, unit, height),
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


def _row(row: Distribution, scale: Scale, top: float, unit: str, class_: str) -> Html:
    edges = bin_edges(scale)
    # Rounding of the outermost edges must not lose the extremes.
    counts, _ = np.histogram(np.clip(row.values, edges[0], edges[-1]), edges)
    base = top + ROW_HEIGHT
    bars = [
        _bar(scale, (float(low), float(high)), int(count) / int(counts.max()), base, f"{count:,}", unit, class_)
        for low, high, count in zip(edges, edges[1:], counts, strict=False)
        if count
    ]
    return join(
        el("text", row.name, x=SIDE, y=top + 18, class_="row-name"),
        el("text", row.note, x=WIDTH - SIDE, y=top + 18, text_anchor="end"),
        *bars,
        el("line", x1=SIDE, x2=WIDTH - SIDE, y1=base, y2=base, class_="base"),
    )


def _bar(
    scale: Scale, edges: tuple[float, float], share: float, base: float, count: str, unit: str, class_: str
) -> Html:
    left, right = (_x(scale, edge) for edge in edges)
    height = max(1.5, share * BARS_HEIGHT)  # a single picture is still seen
    hint = el("title", f"{edges[0]:,.0f}–{edges[1]:,.0f} {unit}: {count} pictures")
    width = right - left - GAP
    return el("rect", hint, x=left + GAP / 2, y=base - height, width=width, height=height, rx=1.5, class_=class_)


def _axis(scale: Scale, unit: str, height: float) -> Html:
    labels = tick_labels(scale.ticks)
    labels[-1] = f"{labels[-1]} {unit}"
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
