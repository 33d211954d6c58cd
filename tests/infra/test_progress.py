"""Progress: rate, time left, and lines that a log can hold."""

import errno
import io
import json
import math
import os
import sys
from collections import Counter
from typing import Any

import pytest

from infra.progress import Progress, StageSnapshot, duration
from infra.progress_display import ProgressForm


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_rate_and_time_left_follow_the_work_of_this_start_only():
    clock, seen = Clock(), list[StageSnapshot]()
    progress = Progress(io.StringIO(), on_snapshot=seen.append, clock=clock)
    progress.begin("build", total=1000, unit="images", done=400)
    clock.now += 10
    progress.update(500)
    assert (seen[-1].done, seen[-1].rate, seen[-1].eta_s) == (500, 10.0, 50.0)


def test_the_rate_can_be_measured_anew_after_a_restart():
    clock, seen = Clock(), list[StageSnapshot]()
    progress = Progress(io.StringIO(), on_snapshot=seen.append, clock=clock)
    progress.begin("train", total=100, unit="steps")
    clock.now += 60
    progress.restart_rate(20)
    clock.now += 10
    progress.update(40)
    assert (seen[-1].rate, seen[-1].eta_s) == (2.0, 30.0)


def test_a_log_gets_a_line_every_ten_seconds_and_one_at_the_end():
    clock, stream = Clock(), io.StringIO()
    with Progress(stream, clock=clock) as progress:
        progress.begin("train", total=60, unit="steps")
        for step in range(1, 61):
            clock.now += 0.5
            progress.update(step, f"loss {5 / step:.2f} [odd] text")
        progress.end("60 steps")
    lines = stream.getvalue().splitlines()
    assert len(lines) == 1 + 3 + 1
    assert "20/60 steps  33%  2.0 steps/s  20 s left  loss 0.25 [odd] text" in lines[1]
    assert lines[-1].startswith("✓ train  60 steps")


def test_durations_read_as_people_say_them():
    assert [duration(s) for s in (4.4, 200, 7500)] == ["4 s", "3 min 20 s", "2 h 05 min"]


def json_lines(stream: io.StringIO) -> list[dict[str, Any]]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in stream.getvalue().splitlines()]


def test_machines_get_a_json_object_a_second_with_the_facts_in_it():
    clock, stream = Clock(), io.StringIO()
    with Progress(stream, form=ProgressForm.JSON, clock=clock) as progress:
        progress.begin("build", total=1000, unit="rows")
        progress.note("build  10 shards to do")
        for step in range(1, 101):
            clock.now += 0.1
            progress.update(step * 10)
            progress.set_facts({"mb_per_s": 8.25, "place": "s3://b", "failures": Counter(http_404=step)})
        progress.end("990 samples")
    events = json_lines(stream)
    assert [event["event"] for event in events[:2]] == ["progress", "note"] and events[1]["text"].endswith("to do")
    assert 11 <= len(events) <= 13 and all(event["at"] > 1e9 for event in events)
    last = events[-1]
    assert last["event"] == "end" and last["summary"] == "990 samples" and (last["done"], last["total"]) == (1000, 1000)
    assert last["facts"] == {"mb_per_s": 8.25, "place": "s3://b", "failures": {"http_404": 100}}
    assert events[5]["rate"] == pytest.approx(100, rel=0.1) and events[5]["eta_s"] > 0


def test_each_stage_begins_with_facts_of_its_own():
    stream = io.StringIO()
    with Progress(stream, form=ProgressForm.JSON) as progress:
        for stage in ("build", "train"):
            progress.begin(stage, total=None, unit="rows")
            progress.set_facts({"yield": 0.5})
            progress.end("")
    assert [event["facts"] for event in json_lines(stream)] == [{}, {"yield": 0.5}] * 2


def test_a_json_line_stays_one_line_of_json_whatever_is_in_it():
    stream = io.StringIO()
    hostile = 'a\n{"event": "end"}\x1b[2J\x85\u2028\ud800'
    with Progress(stream, form=ProgressForm.JSON) as progress:
        progress.begin("build", total=1, unit="rows")
        progress.set_facts({hostile: hostile, "rate": math.inf, "share": math.nan, "failures": {hostile: 1}})
        progress.note(hostile)
        progress.end(hostile)
    assert stream.getvalue().isascii()
    facts = json_lines(stream)[-1]["facts"]
    assert facts == {hostile: hostile, "rate": None, "share": None, "failures": {hostile: 1}}


@pytest.mark.parametrize("terminal", [False, True])
def test_what_is_shown_to_people_cannot_steer_their_terminal(terminal: bool):
    class Stream(io.StringIO):
        def isatty(self) -> bool:
            return terminal

    hostile, stream = "\x1b]0;gotcha\x07\u202e[red]\\[ :bug:", Stream()
    with Progress(stream) as progress:
        progress.begin("build", total=3, unit="rows")
        progress.update(1, hostile)
        progress.note(f"one\n{hostile}")
        progress.end(hostile)
    assert "\x1b]0" not in stream.getvalue() and "\x07" not in stream.getvalue() and "\u202e" not in stream.getvalue()
    assert r"\x1b]0;gotcha\x07\u202e[red]\[ :bug:" in stream.getvalue()


def test_a_snapshot_is_read_back_from_the_runs_folder_with_its_facts():
    seen = list[StageSnapshot]()
    progress = Progress(io.StringIO(), on_snapshot=seen.append)
    progress.begin("build", total=3, unit="rows")
    progress.set_facts({"failures": Counter(timeout=2)})
    progress.end("")
    assert StageSnapshot(**json.loads(json.dumps(seen[-1].to_json()))) == seen[-1]


@pytest.mark.parametrize("code", [errno.EPIPE, errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize(("terminal", "form"), [(True, "auto"), (False, "auto"), (False, "json")])
def test_a_stream_that_is_lost_costs_the_display_and_neither_the_work_nor_the_journal(
    terminal: bool, form: str, code: int
):
    class Lost(io.StringIO):
        def isatty(self) -> bool:
            return terminal

        def write(self, _text: str, /) -> int:
            raise OSError(code, os.strerror(code))

    before, journal, seen = sys.stdout, io.StringIO(), list[StageSnapshot]()
    with Progress(Lost(), form=ProgressForm(form), journal=journal, on_snapshot=seen.append) as progress:
        progress.begin("build", total=3, unit="rows")
        progress.note("a note")
        progress.update(2)
        progress.end("3 rows")
    assert "a note\n" in journal.getvalue() and "✓ build  3 rows" in journal.getvalue() and seen[-1].done == 2
    assert sys.stdout is before
