"""Draws what became of all rows: one bar for the way, one bar a reason."""

from collections.abc import Mapping

from datapipe.status import SampleStatus
from orchestrator.report.markup import Html, el, join
from orchestrator.report.pieces import bar
from orchestrator.report.wording import FAILURES, OTHER, failure_group, failure_words, percent


def failures(status_counts: Mapping[str, int]) -> dict[str, int]:
    """The reasons for which rows were lost, with their rows."""
    return {status: count for status, count in status_counts.items() if count and status != SampleStatus.SUCCESS}


def way(rows: int, samples: int, failed: Mapping[str, int]) -> Html:
    """One bar for all rows: samples, then what was lost at each part of the way."""
    groups = dict.fromkeys((*FAILURES, OTHER), 0)
    for status, count in failed.items():
        groups[failure_group(status)] += count
    parts = [("samples", "Samples", samples)]
    parts += [(f"lost-{group.lower()}", f"Lost: {group}", count) for group, count in groups.items() if count]
    segments = (el("span", class_=class_, style=f"flex-grow:{count}") for class_, _, count in parts if count)
    legend = (
        el("li", el("i", class_=class_), f"{words} ", el("b", f"{count:,}"), f" {percent(count / max(1, rows))}")
        for class_, words, count in parts
    )
    return join(el("div", *segments, class_="way", aria_hidden="true"), el("ul", *legend, class_="legend"))


def reasons_table(failed: Mapping[str, int], rows: int) -> Html:
    """The reasons, most frequent first, each with its bar."""
    most = max(failed.values())
    ordered = sorted(failed.items(), key=lambda item: (-item[1], item[0]))
    body = [
        el(
            "tr",
            el("th", failure_words(status), scope="row"),
            el("td", bar(count / most, f"lost-{failure_group(status).lower()}"), class_="bar-cell"),
            el("td", f"{count:,}"),
            el("td", percent(count / max(1, rows))),
        )
        for status, count in ordered
    ]
    headings = (("Reason", ""), ("", "bar-cell"), ("Pairs", ""), ("Share", ""))
    head = el("tr", *(el("th", text, scope="col", class_=class_ or None) for text, class_ in headings))
    return el("table", el("thead", head), el("tbody", *body), class_="bars card")
