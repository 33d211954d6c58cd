"""The plots of `diptych inspect`: all numbers are there, nothing is loaded, and data stays text."""

from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from small_datasets import make_dataset

from datapipe.advice import advise
from datapipe.inspect import DatasetSummary, inspect, inspect_rows
from datapipe.survey import HostYield, Survey
from datapipe.tallies import ValueTally
from infra.errors import OutputError
from orchestrator.report.inspect_page import SIZES, inspection_html, write_inspection

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=1>\x1b[31m\u202e\x00\ud800"


class Page(HTMLParser):
    """The page's elements and its text outside style and script."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._raw = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._raw = tag in ("style", "script")

    def handle_endtag(self, tag: str) -> None:
        self._raw = False

    def handle_data(self, data: str) -> None:
        if not self._raw:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.elements)


def summary_of(counts: dict[str, int], *, url: str = "datasets/birds", finished: bool = True) -> DatasetSummary:
    rows, samples = sum(counts.values()), counts.get("success", 0)
    return DatasetSummary(url, finished, 3, rows, samples, 12_000_000, counts, tuple(advise(counts)))


def survey_of(hosts: tuple[HostYield, ...], *, missed: int = 0) -> Survey:
    tally, rng = ValueTally(), np.random.default_rng(0)
    tally.add(rng.lognormal(6, 1, 5000))
    return Survey(5000, hosts, 70, missed, dict.fromkeys(SIZES, tally.distribution()))


def test_a_dataset_is_plotted_with_its_reasons_hosts_and_sizes(tmp_path: Path):
    url = make_dataset(tmp_path / "birds", shards=2, rows=50)
    target = tmp_path / "plots" / "birds.html"
    write_inspection(inspect(url), inspect_rows(url, hosts=5), target)
    page = Page(target.read_text())
    for words in ("diptych · birds", "Not found (404)", "90.0%", "example.org", "Width ÷ height", "median 64"):
        assert words in page.text
    assert page.count("svg") == 1 + len(SIZES) and page.count("section") == 3
    assert "not finished" not in page.text


def test_the_page_loads_nothing_and_runs_only_its_own_script():
    page = Page(inspection_html(summary_of({"success": 9}), survey_of((HostYield("a", 9, 9, None, 0),))))
    sources = [a[key] for _, a in page.elements for key in ("src", "href", "srcset", "action") if a.get(key)]
    assert sources and all(source.startswith("#") for source in sources)
    assert page.count("script") == 1
    assert any("default-src 'none'" in (a.get("content") or "") for name, a in page.elements if name == "meta")


def test_hosts_reasons_and_places_stay_text(tmp_path: Path):
    summary = summary_of({"success": 1, HOSTILE: 999}, url=f"data/{HOSTILE}")
    target = tmp_path / "page.html"
    write_inspection(summary, survey_of((HostYield(HOSTILE, 9, 1, HOSTILE, 8),)), target)
    text = target.read_text()
    page = Page(text)
    assert page.count("script") == 1 and page.count("img") == 0
    assert not [name for _, a in page.elements for name in a if name.startswith("on")]
    assert not any(steering in text for steering in "\x1b\x00\u202e")
    assert r"\x1b[31m\u202e\x00" in page.text


def test_histograms_count_every_picture():
    page = Page(inspection_html(summary_of({"success": 5000}), survey_of(())))
    notes = [words for words in page.words if words.endswith(" pictures")]
    assert sum(int(note.split(": ")[1].split()[0].replace(",", "")) for note in notes) == 5000 * len(SIZES)


def test_what_is_not_known_is_said():
    page = Page(inspection_html(summary_of({"success": 10}, finished=False), None))
    assert page.text.count("The rows were not read.") == 2 and "not finished" in page.text
    page = Page(inspection_html(summary_of({}), Survey(0, (), 0, 0, {})))
    assert "hold no such rows" in page.text
    page = Page(inspection_html(summary_of({"success": 9}), survey_of((HostYield("a", 9, 9, None, 0),), missed=1234)))
    assert "too low by up to 1,234" in page.text


def test_advice_stands_below_the_reasons():
    page = Page(inspection_html(summary_of({"success": 500, "opt_out": 500}), None))
    assert "opt_out + robots_txt, 50.0% of the pairs : many publishers opt out" in page.text


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="cannot be written"):
        write_inspection(summary_of({"success": 1}), None, tmp_path / "file" / "page.html")
