"""Decoding in a child process, and the baton that a process's shards share."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from pictures import picture

from datapipe.addresses import Refusal
from datapipe.baton import Baton
from datapipe.config import BuildConfig
from datapipe.image import StoredImage, process_image
from datapipe.isolation import CRASHED, IsolatedDecoder
from datapipe.status import SampleStatus
from infra.errors import MachineError

CONFIG = BuildConfig(input="", output="", image_size=40)


def crash(body: bytes, config: BuildConfig) -> StoredImage | Refusal:
    """Dies of what the picture says."""
    if body == b"segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    if body == b"killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if body == b"raise":
        raise RuntimeError("a bug")
    return process_image(body, config)


@pytest.fixture(autouse=True)
def find_this_module(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(Path(__file__).parent), os.getcwd())))


def test_a_child_gives_what_the_process_itself_gives():
    with IsolatedDecoder(CONFIG) as decoder:
        for body in (picture(1), picture(2), b"<html>", b""):
            assert decoder.process(body) == process_image(body, CONFIG)


def test_a_picture_that_kills_the_child_costs_only_itself():
    with IsolatedDecoder(CONFIG, crash) as decoder:
        for death in (b"segfault", b"killed", b"raise"):
            assert decoder.process(picture(1)) == process_image(picture(1), CONFIG)
            assert decoder.process(death) == CRASHED
        assert decoder.process(picture(3)) == process_image(picture(3), CONFIG)
    assert CRASHED.status is SampleStatus.DECODER_CRASH


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.ENOMEM, errno.EMFILE])
def test_a_child_that_this_machine_cannot_start_is_no_fault_of_the_picture(
    monkeypatch: pytest.MonkeyPatch, number: int
):
    def no_process(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    with IsolatedDecoder(CONFIG) as decoder:
        with monkeypatch.context() as short:
            short.setattr("datapipe.isolation.subprocess.Popen", no_process)
            with pytest.raises(MachineError, match=os.strerror(number)):
                decoder.process(picture(1))
        assert decoder.process(picture(1)) == process_image(picture(1), CONFIG)


ENDLESS = """
import time
from datapipe.watchdog import Watchdog
watchdog = Watchdog(limit_s=0.5, check_every_s=0.05)
for _ in range(10):
    with watchdog:
        time.sleep(0.1)
print("short ones pass", flush=True)
with watchdog:
    time.sleep(60)
"""


def test_a_process_whose_decoder_finds_no_end_is_ended():
    done = subprocess.run([sys.executable, "-c", ENDLESS], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, "short ones pass\n")


def test_the_lowest_number_gets_the_baton_first():
    baton, order = Baton(), list[int]()
    baton.acquire(5)

    def take(number: int) -> None:
        baton.acquire(number)
        order.append(number)
        baton.release()

    threads = [threading.Thread(target=take, args=(number,)) for number in (9, 3, 7, 1)]
    for waiting, thread in enumerate(threads, 1):
        thread.start()
        while len(baton._waiting) < waiting:
            time.sleep(0.001)
    assert baton.is_wanted_before(5) and not baton.is_wanted_before(1)
    baton.release()
    for thread in threads:
        thread.join()
    assert order == [1, 3, 7, 9]
