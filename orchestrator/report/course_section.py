"""The section on how the run went: its stages, what they cost, and what was started again and why."""

from collections.abc import Sequence
from datetime import UTC, datetime

from infra.progress import duration
from orchestrator.node_hours import NodeUse
from orchestrator.report.facts import CourseFacts
from orchestrator.report.markup import Html, el
from orchestrator.report.pieces import folded, section, table
from orchestrator.report.wording import shortened
from orchestrator.show import STAGE_HEADINGS, stage_cells

MAX_RESTARTS = 100
MAX_CAUSE = 300  # characters
HEADINGS = tuple(heading.capitalize() for heading in STAGE_HEADINGS)


def course_section(course: CourseFacts | None) -> Html | None:
    """The stages with their cost, each restart with its cause; None for a run that nobody has started."""
    if course is None:
        return None
    hours = sum(use.node_hours for use in course.uses)
    lead = f"{hours:,.2f} node-hours" + (f" as of {course.at}." if course.at else ".")
    return section(
        "course",
        "The run",
        lead,
        el("div", table(HEADINGS, [stage_cells(stage) for stage in course.stages]), class_="folded"),
        _restarts(course),
        _uses(course.uses),
    )


def _restarts(course: CourseFacts) -> Html | None:
    if not course.restarts:
        return None
    shown = course.restarts[-MAX_RESTARTS:]
    rows = [(_moment(restart.at), shortened(restart.cause, MAX_CAUSE)) for restart in shown]
    last = f", the last {len(shown):,}" if len(shown) < len(course.restarts) else ""
    return folded(f"Restarts: {len(course.restarts):,}{last}", table(("When (UTC)", "Why"), rows))


def _uses(uses: Sequence[NodeUse]) -> Html | None:
    """Each stretch of time with the same number of nodes."""
    if not uses:
        return None
    rows = [
        (_moment(use.began), use.stage, f"{use.nodes:,}", duration(use.seconds), f"{use.node_hours:,.3f}")
        for use in uses[-MAX_RESTARTS:]
    ]
    return folded("The nodes that it held", table(("From (UTC)", "Stage", "Nodes", "Time", "Node-hours"), rows))


def _moment(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S}"
