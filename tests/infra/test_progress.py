"""Progress: rate, time left, and lines that a log can hold."""

import io

from infra.progress import Progress, StageSnapshot, duration


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
