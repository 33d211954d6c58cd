"""A log that only grows: on local disk, and as a row of objects in a store that fails now and then."""

import os
import threading
import time
from pathlib import Path
from uuid import uuid4

import pytest
from fault_proxy import FaultProxy
from hypothesis import given, settings
from hypothesis import strategies as st
from object_store import ObjectStore
from store_client import UseStore

from infra.append_log import SEGMENT_BYTES, SEGMENTS_SUFFIX, AppendLog, read_log, read_tail
from infra.errors import StorageFailed
from infra.storage import Storage, storage_of

LOG = "logs/x.jsonl"


def lines(storage: Storage) -> list[str]:
    text = read_log(storage, LOG).decode()
    assert text.endswith("\n") or not text
    return text.split("\n")[:-1]


def append(storage: Storage, *texts: str) -> None:
    with AppendLog(storage, LOG) as log:
        for text in texts:
            log.write(text)


def test_lines_are_read_in_the_order_of_their_writing_over_several_openings(tmp_path: Path):
    storage = storage_of(tmp_path)
    assert read_log(storage, LOG) == b""
    append(storage, "one", "zwei …")
    append(storage)
    append(storage, "three")
    assert lines(storage) == ["one", "zwei …", "three"]


@pytest.mark.parametrize("place", ["disk", "s3"])
def test_the_tail_is_the_newest_whole_lines(place: str, store: ObjectStore, tmp_path: Path):
    storage = storage_of(tmp_path) if place == "disk" else storage_of(store.url(f"tail-{uuid4().hex}"))
    assert read_tail(storage, LOG) == b""
    for texts in (["one", "two"], ["three", "four"], ["five"]):
        append(storage, *texts)
    whole = read_log(storage, LOG)
    for length in range(len(whole) + 2):
        tail = read_tail(storage, LOG, length)
        assert len(tail) <= length and whole.endswith(tail)
        left = whole.removesuffix(tail)
        assert left.endswith(b"\n") or not left
        # No line more has room, but one that just fits: where a cut falls is not looked at.
        assert not left or len(tail) + len(left.splitlines(keepends=True)[-1]) >= length
    assert read_tail(storage, LOG) == whole


def test_a_local_line_is_there_at_once_for_other_processes(tmp_path: Path):
    with AppendLog(storage_of(tmp_path), LOG) as log:
        log.write("one")
        assert lines(storage_of(tmp_path)) == ["one"]
        log.flush()


@settings(max_examples=30)
@given(st.lists(st.text(st.characters(exclude_characters="\n", codec="utf-8"), min_size=1), min_size=1), st.data())
def test_a_line_that_a_kill_cut_is_ended_and_the_next_ones_are_whole(texts: list[str], data: st.DataObject):
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        storage = storage_of(folder)
        append(storage, *texts)
        whole = read_log(storage, LOG)
        cut = data.draw(st.integers(0, len(whole)))
        os.truncate(storage.local_path(LOG), cut)
        append(storage, "after")
        kept = whole[:cut] + (b"" if whole[:cut].endswith(b"\n") or not cut else b"\n")
        assert read_log(storage, LOG) == kept + b"after\n"


def test_a_local_log_that_cannot_be_made_durable_says_so(tmp_path: Path):
    log = AppendLog(storage_of(tmp_path), LOG)
    log.write("one")
    assert log._file is not None
    os.close(log._file.fileno())
    with pytest.raises(OSError, match="Bad file descriptor"):
        log.flush()


def segments(store: ObjectStore, name: str) -> list[str]:
    return store.keys(f"{name}/{LOG}{SEGMENTS_SUFFIX}/")


def test_in_a_store_a_log_is_segments_that_read_as_one(store: ObjectStore):
    storage = Storage(store.url("log-one"))
    assert read_log(storage, LOG) == b""
    large = "x" * (SEGMENT_BYTES // 2)
    with AppendLog(storage, LOG) as log:
        log.write("first")
        log.flush()
        log.write("second")
        log.flush()
        assert len(segments(store, "log-one")) == 1 and lines(storage) == ["first", "second"]
        for number in range(6):
            log.write(f"{number}{large}")
            log.flush()
    assert 2 < len(segments(store, "log-one")) < 8
    assert lines(storage) == ["first", "second", *(f"{number}{large}" for number in range(6))]


def test_a_writer_that_comes_later_begins_a_segment_of_its_own(store: ObjectStore):
    storage = Storage(store.url("log-two"))
    for number in range(3):
        append(storage, f"{number}a", f"{number}b")
    append(storage)
    assert len(segments(store, "log-two")) == 3
    assert lines(storage) == ["0a", "0b", "1a", "1b", "2a", "2b"]


def test_a_store_that_is_out_loses_no_line_and_holds_nobody_up(
    object_store: ObjectStore, use_store: UseStore, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with FaultProxy(object_store.endpoint) as proxy:
        use_store(object_store.environment(proxy.endpoint))
        storage = Storage(object_store.url("log-three"))
        with AppendLog(storage, LOG, flush_every_s=0.01) as log:
            log.write("before")
            log.flush()
            proxy.refuse(600)
            for number in range(20):
                log.write(f"during {number}")
                time.sleep(0.01)
            with pytest.raises(StorageFailed):
                log.flush()
            proxy.no_faults()
            log.write("after")
        assert lines(storage) == ["before", *(f"during {number}" for number in range(20)), "after"]


def test_writing_does_not_wait_for_a_store_that_answers_slowly(object_store: ObjectStore, use_store: UseStore):
    with FaultProxy(object_store.endpoint) as proxy:
        use_store(object_store.environment(proxy.endpoint))
        storage = Storage(object_store.url("log-four"))
        with AppendLog(storage, LOG, flush_every_s=0.01) as log:
            log.write("one")
            log.flush()
            proxy.delay_s = 3.0
            longest = 0.0
            for number in range(40):
                began = time.monotonic()
                log.write(str(number))
                longest = max(longest, time.monotonic() - began)
                time.sleep(0.005)
            # One flush is under way and the others did not pile up behind it.
            assert sum(thread.name == "append-log" for thread in threading.enumerate()) == 1
            assert longest < 1.5
            proxy.delay_s = 0.0
        assert lines(storage) == ["one", *map(str, range(40))]


def test_lines_become_durable_by_themselves_after_a_while(store: ObjectStore):
    storage = Storage(store.url("log-five"))
    log = AppendLog(storage, LOG, flush_every_s=0.05)
    deadline = time.monotonic() + 30
    while not read_log(storage, LOG):
        assert time.monotonic() < deadline
        log.write("again")
        time.sleep(0.03)
