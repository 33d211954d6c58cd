"""What `diptych inspect` prints: aligned, complete, and unable to steer the terminal."""

import json

import numpy as np

from datapipe.advice import advise
from datapipe.inspect import DatasetSummary
from datapipe.survey import HostYield, Survey
from datapipe.tallies import ValueTally
from orchestrator.show import inspection_record, summary_lines, survey_lines

HOSTILE = "evil\x1b[2J\n\u202e\x9b\ud800"


def summary_of(counts: dict[str, int], *, finished: bool = True, bad: tuple[str, ...] = ()) -> DatasetSummary:
    rows, samples = sum(counts.values()), counts.get("success", 0)
    return DatasetSummary("birds", finished, 3, rows, samples, 12_000_000, counts, tuple(advise(counts)), bad)


def survey_of(*hosts: HostYield, missed: int = 0) -> Survey:
    tally = ValueTally()
    tally.add(np.array([100.0, 200.0, 400.0]))
    return Survey(10, hosts, len(hosts), missed, {"original_width": tally.distribution()})


def test_a_summary_names_each_reason_with_its_share():
    assert summary_lines(summary_of({"http_404": 20, "success": 180})) == [
        "birds",
        "rows      200 in 3 shards",
        "samples   180 (90.0%)",
        "size      12.0 MB",
        "  success                        180   90.0%",
        "  http_404                        20   10.0%",
    ]


def test_an_unfinished_dataset_and_bad_markers_are_said():
    text = "\n".join(summary_lines(summary_of({"success": 1}, finished=False, bad=("00002_stats.json",))))
    assert "not finished" in text and "in so far" in text and "00002_stats.json cannot be read" in text


def test_advice_follows_the_counts():
    lines = summary_lines(summary_of({"success": 500, "tls_failed": 500}))
    assert lines[-2].startswith("! tls_failed, 50.0% of the rows: ") and lines[-1].startswith("  Update")


def test_reasons_without_end_are_cut():
    lines = summary_lines(summary_of({f"reason {n}": 1 for n in range(100)}))
    assert "  and 60 further reasons" in lines


def test_hosts_and_quantiles_are_columns():
    lines = survey_lines(survey_of(HostYield("a.example", 1000, 250, "timeout", 700), HostYield("b", 2, 2, None, 0)))
    assert lines[0] == "hosts     the 2 with most rows of 2"
    assert lines[2].split() == ["a.example", "1,000", "25.0%", "timeout", "70.0%"]
    assert lines[3].split() == ["b", "2", "100.0%"]
    assert lines[-1].split() == ["original", "width", "100", "100", "100", "200", "400", "400", "400"]
    assert "too low by up to 7" in survey_lines(survey_of(HostYield("b", 2, 2, None, 0), missed=7))[0]


def test_nothing_of_the_data_steers_the_terminal():
    summary = summary_of({"success": 1, HOSTILE: 999})
    lines = summary_lines(summary) + survey_lines(survey_of(HostYield(HOSTILE, 9, 0, HOSTILE, 9)))
    assert all(line.isprintable() for line in lines)
    record = json.dumps(inspection_record(summary, survey_of(HostYield(HOSTILE, 9, 0, HOSTILE, 9))))
    assert record.isascii() and record.isprintable()


def test_the_record_holds_quantiles_and_every_field_of_the_summary():
    record = inspection_record(summary_of({"success": 1}), survey_of(HostYield("a", 1, 1, None, 0)))
    assert record["is_finished"] and record["status_counts"] == {"success": 1} and record["advice"] == ()
    assert record["survey"]["hosts"][0]["host"] == "a"
    assert record["survey"]["quantiles"]["original_width"]["median"] == 200
    assert inspection_record(summary_of({"success": 1}), None)["survey"] is None
