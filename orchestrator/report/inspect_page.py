"""Plots what `diptych inspect` found: failures by reason, yield by host, sizes, as one HTML file."""

from pathlib import Path

import numpy as np

from datapipe.advice import Advice
from datapipe.inspect import DatasetSummary
from datapipe.survey import ASPECT_RATIO, CAPTION_CHARACTERS, HostYield, Survey
from datapipe.tallies import QUANTILES
from datapipe.tallies import Distribution as Counted
from infra.local_files import LocalWriter
from infra.terminal import printable
from orchestrator.report.document import document, header, tile
from orchestrator.report.histogram import Distribution, histogram
from orchestrator.report.markup import Html, el
from orchestrator.report.pieces import bar, figure, folded, missing, section, table
from orchestrator.report.reasons import failures, reasons_table, way
from orchestrator.report.wording import failure_words, file_size, measured, percent

ANCHORS = {"reasons": "Reasons", "hosts": "Hosts", "sizes": "Sizes"}
# Name in the survey → title, unit of a bar's note.
SIZES = {
    "original_width": ("Width on the web, in pixels", "px"),
    "original_height": ("Height on the web, in pixels", "px"),
    ASPECT_RATIO: ("Width ÷ height on the web", "to 1"),
    "width": ("Width as stored, in pixels", "px"),
    "height": ("Height as stored, in pixels", "px"),
    "image_bytes": ("Stored bytes a picture", "bytes"),
    CAPTION_CHARACTERS: ("Length of the caption, in characters", "characters"),
}


def write_inspection(summary: DatasetSummary, survey: Survey | None, target: Path) -> None:
    """Writes one self-contained HTML file to `target`, whole or not at all.

    The same numbers give the same bytes. Raises OutputError when `target` can't be written.
    """
    page = inspection_html(summary, survey)
    with LocalWriter(target) as temporary:
        temporary.write_bytes(page.encode("utf-8", errors="replace"))


def inspection_html(summary: DatasetSummary, survey: Survey | None) -> str:
    """The page. Without a survey, the sections on hosts and sizes say that the rows were not read."""
    title = f"diptych · {printable(summary.url.rstrip('/').rpartition('/')[2])}"
    main = el("main", _reasons_section(summary), _hosts_section(survey), _sizes_section(survey))
    footer = el("footer", el("p", f"{printable(summary.url)}. Made by diptych inspect. This page loads nothing."))
    return document(title, header(title, _tiles(summary), ANCHORS), main, footer)


def _tiles(summary: DatasetSummary) -> list[Html]:
    lost = summary.rows - summary.samples
    state = "finished" if summary.is_finished else "in so far, not finished"
    return [
        tile("Shards", f"{summary.shards:,}", state),
        tile("Pairs in", f"{summary.rows:,}", "rows of the URL list"),
        tile("Samples out", f"{summary.samples:,}", f"{lost:,} left out"),
        tile("Yield", percent(summary.samples / max(1, summary.rows)), "of the pairs became samples", "main"),
        tile("Size", file_size(summary.total_bytes), "in the shards' files"),
    ]


def _reasons_section(summary: DatasetSummary) -> Html:
    failed = failures(summary.status_counts)
    lead = "Every pair that did not become a sample is counted by its reason." if failed else "No pair was left out."
    advice = [el("p", el("b", words), f": {advice.text}", class_="note") for advice, words in _advice(summary)]
    return section(
        "reasons",
        "From pairs to samples",
        lead,
        way(summary.rows, summary.samples, failed),
        reasons_table(failed, summary.rows) if failed else None,
        *advice,
    )


def _advice(summary: DatasetSummary) -> list[tuple[Advice, str]]:
    return [(advice, f"{advice.reason}, {percent(advice.share)} of the pairs") for advice in summary.advice]


def _hosts_section(survey: Survey | None) -> Html:
    if survey is None or not survey.hosts:
        return section("hosts", "Yield by host", None, missing(_why_nothing(survey)))
    lead = f"The {len(survey.hosts):,} with most pairs, of {survey.hosts_counted:,} hosts."
    if survey.host_rows_missed_at_most:
        lead = (
            f"The {len(survey.hosts):,} with most pairs. There are more hosts than are counted at once: "
            f"each number may be too low by up to {survey.host_rows_missed_at_most:,}."
        )
    headings = (("Host", ""), ("", "bar-cell"), ("Pairs", ""), ("Yield", ""), ("Most frequent failure", ""))
    head = el("tr", *(el("th", text, scope="col", class_=class_ or None) for text, class_ in headings))
    body = map(_host_row, survey.hosts)
    return section(
        "hosts",
        "Yield by host",
        lead,
        el("table", el("thead", head), el("tbody", *body), class_="bars card hosts"),
    )


def _host_row(host: HostYield) -> Html:
    worst = "" if host.failure is None else f"{failure_words(host.failure)}, {percent(host.failure_rows / host.rows)}"
    return el(
        "tr",
        el("th", el("bdi", printable(host.host)), scope="row"),
        el("td", bar(host.samples / host.rows, "samples"), class_="bar-cell"),
        el("td", f"{host.rows:,}"),
        el("td", percent(host.samples / host.rows)),
        el("td", worst),
    )


def _sizes_section(survey: Survey | None) -> Html:
    if survey is None or not survey.distributions:
        return section("sizes", "Sizes", None, missing(_why_nothing(survey)))
    cards = [_size_card(name, survey.distributions[name]) for name in SIZES if name in survey.distributions]
    return section("sizes", "Sizes", "Of the samples.", el("div", *cards, class_="charts three"))


def _size_card(name: str, counted: Counted) -> Html:
    title, unit = SIZES[name]
    median = f"median {measured(counted.quantile(0.5))}"
    values, counts = np.array(counted.values, np.float64), np.array(counted.counts, np.int64)
    chart = histogram(f"{title}: {median}", unit, [Distribution("samples", values, median, counts)])
    numbers = [(share, measured(value)) for share, value in zip(QUANTILES, counted.quantiles(), strict=True)]
    return figure(title, None, chart, folded("As numbers", table(("", unit), numbers)))


def _why_nothing(survey: Survey | None) -> str:
    return "The rows were not read." if survey is None else "The shards' tables hold no such rows."
