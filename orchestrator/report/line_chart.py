"""Draws a quantity over training steps as an SVG picture."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.report.markup import Html, el, join
from orchestrator.report.scales import Scale, exact_scale, tick_labels

WIDTH = 480
HEIGHT = 240
TOP, RIGHT, BOTTOM = 16, 14, 30
X_LABEL = 22  # from the axis down to its labels
CHARACTER = 7.2  # width of a tick label's character, in the SVG's units
TREND_WINDOW = 0.06  # of the points; wide enough to calm the noise, narrow enough to keep the bends

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Guide:
    """A horizontal line to compare with."""

    value: float
    text: str


@dataclass(frozen=True, slots=True)
class LineChart:
    """What is drawn. `trend` is drawn strongly over `points`; `marks` are steps at which something happened.

    `notes` has one text a point, shown when the pointer is near it.
    """

    label: str
    points: Points
    notes: Sequence[str]
    y_scale: Scale
    trend: Points = ()
    marks: Sequence[float] = ()
    guide: Guide | None = None


@dataclass(frozen=True, slots=True)
class _Frame:
    left: float
    x_scale: Scale
    y_scale: Scale

    def x(self, value: float) -> float:
        return self.left + self.x_scale.place(value) * (WIDTH - RIGHT - self.left)

    def y(self, value: float) -> float:
        return HEIGHT - BOTTOM - self.y_scale.place(value) * (HEIGHT - BOTTOM - TOP)


def line_chart(chart: LineChart) -> Html:
    """The chart as inline SVG; its colours and fonts come from the page's style sheet."""
    labels = tick_labels(chart.y_scale.ticks)
    left = 12 + CHARACTER * max(4, *map(len, labels))
    frame = _Frame(left, exact_scale([x for x, _ in chart.points]), chart.y_scale)
    faint = "line faint" if chart.trend else "line"
    return el(
        "svg",
        _y_axis(frame, labels),
        _x_axis(frame),
        _marks(frame, chart.marks),
        _guide(frame, chart.guide),
        _line(frame, chart.points, faint),
        _line(frame, chart.trend, "line"),
        class_="plot",
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
        aria_label=chart.label,
        data_points=_hover_data(frame, chart),
    )


def moving_mean(points: Points, window_share: float = TREND_WINDOW) -> list[tuple[float, float]]:
    """Each point's mean with its neighbours; fewer neighbours at the ends."""
    half = max(1, round(len(points) * window_share / 2))
    smooth = []
    for index, (x, _) in enumerate(points):
        reach = min(half, index, len(points) - 1 - index)
        near = [y for _, y in points[index - reach : index + reach + 1]]
        smooth.append((x, math.fsum(near) / len(near)))
    return smooth


def _y_axis(frame: _Frame, labels: Sequence[str]) -> Html:
    parts = []
    for tick, label in zip(frame.y_scale.ticks, labels, strict=True):
        y = frame.y(tick)
        parts.append(el("line", x1=frame.left, x2=WIDTH - RIGHT, y1=y, y2=y, class_="grid"))
        parts.append(el("text", label, x=frame.left - 8, y=y + 4.3, text_anchor="end"))
    return join(*parts)


def _x_axis(frame: _Frame) -> Html:
    scale = frame.x_scale
    whole = [tick for tick in scale.ticks if tick.is_integer()]
    parts = [
        el("text", label, x=frame.x(tick), y=HEIGHT - BOTTOM + X_LABEL, text_anchor="middle")
        for tick, label in zip(whole, tick_labels(whole), strict=True)
    ]
    title = el("text", "step", x=frame.left - 8, y=HEIGHT - BOTTOM + X_LABEL, text_anchor="end")
    return join(*parts, title)


def _marks(frame: _Frame, marks: Sequence[float]) -> Html:
    """A dashed line with a small triangle above; no text, so that near ones can't overlap."""
    parts = []
    for mark in marks:
        x = frame.x(mark)
        parts.append(el("line", x1=x, x2=x, y1=TOP, y2=HEIGHT - BOTTOM, class_="mark"))
        parts.append(el("path", d=f"M{x - 5:.1f} {TOP - 9}h10l-5 8z", class_="mark-head"))
    return join(*parts)


def _guide(frame: _Frame, guide: Guide | None) -> Html | None:
    if guide is None:
        return None
    y = frame.y(guide.value)
    line = el("line", x1=frame.left, x2=WIDTH - RIGHT, y1=y, y2=y, class_="guide")
    return join(line, el("text", guide.text, x=WIDTH - RIGHT, y=y - 6, text_anchor="end", class_="guide-text"))


def _line(frame: _Frame, points: Points, class_: str) -> Html | None:
    if not points:
        return None
    places = [f"{frame.x(x):.1f} {frame.y(y):.1f}" for x, y in points]
    # A single point is drawn as a dot: a line of no length with round ends.
    return el("path", d=f"M{'L'.join(places if len(places) > 1 else places * 2)}", class_=class_)


def _hover_data(frame: _Frame, chart: LineChart) -> str:
    shown = chart.trend or chart.points
    places = [
        [round(frame.x(x), 1), round(frame.y(y), 1), note] for (x, y), note in zip(shown, chart.notes, strict=True)
    ]
    return json.dumps(places, ensure_ascii=False, separators=(",", ":"))
