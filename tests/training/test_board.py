"""The board: what the ranks tell, who fell silent, and how a stop reaches them."""

import subprocess
import sys
import time

import pytest
import ray

from infra.cluster import Cluster
from infra.errors import StageFailed
from training.board import DATA_PHASE, HUNG, SILENT_AFTER_S, STOP_NOTE, Beat, Board, Heartbeat, start_board


class Clock:
    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def ended(board: Board) -> tuple[str, ...]:
    """Who was silent when the next attempt began."""
    board.tell(Beat(board.attempt + 1, 0, 1, "starting"))
    return board.look().silent


def test_a_rank_that_falls_silent_is_named_with_its_step_and_phase(clock: Clock):
    board = Board(clock)
    for rank, phase in enumerate(("computing", "waiting for data", "computing")):
        board.tell(Beat(1, rank, 1234 + rank, phase))
    for second in range(8):
        clock.now += 1
        for rank in (0, 2):
            board.tell(Beat(1, rank, 1240 + second, "computing"))
    assert ended(board) == ("rank 1 was silent for 8 s in step 1,235 (waiting for data)",)


def test_a_rank_is_silent_by_the_others_and_not_by_the_time_of_day(clock: Clock):
    board = Board(clock)
    for attempt, told in ((1, ()), (2, (0,))):
        for rank in (0, 1):
            board.tell(Beat(attempt, rank, 3, "computing"))
        clock.now += 1000
        for rank in told:
            board.tell(Beat(attempt, rank, 3, "computing"))
        assert len(ended(board)) == len(told)


@pytest.mark.parametrize(("pause_s", "is_silent"), [(SILENT_AFTER_S, False), (SILENT_AFTER_S + 0.1, True)])
def test_a_short_pause_is_no_silence(clock: Clock, pause_s: float, is_silent: bool):
    board = Board(clock)
    board.tell(Beat(1, 0, 3, "computing"))
    clock.now += pause_s
    board.tell(Beat(1, 1, 3, "computing"))
    assert bool(ended(board)) is is_silent


def test_a_new_attempt_begins_anew_and_keeps_the_last_words_of_the_one_before(clock: Clock):
    board = Board(clock)
    board.tell(Beat(1, 0, 7, "validating"))
    clock.now += 20
    board.tell(Beat(1, 1, 9, "computing"))
    board.tell(Beat(2, 1, 6, "starting"))
    view = board.look()
    assert view.attempt == 2 and view.silent == ("rank 0 was silent for 20 s in step 7 (validating)",)
    board.tell(Beat(1, 0, 8, "computing", ("late",)))
    assert board.attempt == 2 and board.look().lines == ("late",)


def test_lines_and_notes_come_out_once_and_in_order(clock: Clock):
    board = Board(clock)
    board.tell(Beat(1, 0, 1, "computing", ("a", "b"), ("note",)))
    board.tell(Beat(1, 1, 1, "computing", (), ("other",)))
    view = board.look()
    assert view.lines == ("a", "b") and view.notes == ("note", "other") and view.failure is None
    again = board.look()
    assert again.lines == () and again.notes == ()


def test_a_stop_reaches_every_rank_also_of_a_later_attempt(clock: Clock):
    board = Board(clock)
    assert not board.tell(Beat(1, 0, 1, "computing"))
    board.stop()
    assert board.look().notes == ()
    assert board.tell(Beat(1, 0, 2, "computing")) and board.tell(Beat(2, 3, 1, "starting"))
    assert board.look().notes == (STOP_NOTE,)


def test_the_reason_that_all_have_stopped_for_is_shown(clock: Clock):
    board = Board(clock)
    board.fail(StageFailed("Step 3 went wrong"))
    assert str(board.look().failure) == "Step 3 went wrong"


def test_a_ranks_heartbeat_tells_the_board_and_hears_of_the_stop(ray_cluster: Cluster):
    board = start_board()
    with Heartbeat(board, 4, 0, 60) as heartbeat:
        heartbeat.at(17, "computing")
        heartbeat.line("{}")
        heartbeat.note("a \x1b[31mred\x1b[0m note")
        ray.get(board.stop.remote())
        deadline = time.monotonic() + 60
        while not heartbeat.must_stop:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        heartbeat.line("last")
    view = ray.get(board.look.remote())
    assert view.attempt == 4 and view.lines == ("{}", "last") and "\x1b" not in view.notes[0]


def test_without_a_board_a_heartbeat_is_silent():
    with Heartbeat(None, 1, 0, 60) as heartbeat:
        heartbeat.at(1, "computing")
        heartbeat.line("x")
        heartbeat.note("y")
    assert not heartbeat.must_stop


def test_a_heartbeat_whose_board_is_gone_does_not_disturb_the_training(ray_cluster: Cluster):
    board = start_board()
    ray.get(board.look.remote())
    ray.kill(board)
    with Heartbeat(board, 1, 0, 60) as heartbeat:
        heartbeat.line("x")


HUNG_IN = """
import sys, time
from training.board import Heartbeat
with Heartbeat(None, 1, 0, 1.0) as heartbeat:
    heartbeat.at(3, sys.argv[1])
    time.sleep(4)
"""


@pytest.mark.parametrize(("phase", "code"), [(DATA_PHASE, HUNG), ("computing", 0)])
def test_a_rank_that_waits_too_long_for_its_own_data_ends_itself(phase: str, code: int):
    assert subprocess.run([sys.executable, "-c", HUNG_IN, phase], timeout=60, check=False).returncode == code
