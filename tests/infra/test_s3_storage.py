"""Storage on a real S3-compatible server, and behind a proxy that breaks its requests."""

import io
import json
import threading
import time
from collections.abc import Iterator
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fault_proxy import FaultProxy
from hypothesis import given
from hypothesis import strategies as st
from object_store import ObjectStore
from other_stores import localbucket, moto_server, nanio
from store_client import UseStore

from infra.conditions import honours_conditions, require_conditions
from infra.errors import OutputError, StorageFailed
from infra.lease import hold
from infra.object_lease import ObjectLease
from infra.s3_objects import PART_BYTES, S3Objects
from infra.storage import Storage, sha256_in, sha256_of_stream, storage_of


@pytest.fixture
def storage(store: ObjectStore) -> Storage:
    return storage_of(store.url(f"storage-{uuid4().hex}"))


@pytest.fixture
def objects(storage: Storage) -> S3Objects:
    assert storage.s3 is not None
    return storage.s3


@pytest.fixture
def proxy(store: ObjectStore, use_store: UseStore) -> Iterator[FaultProxy]:
    with FaultProxy(store.endpoint) as running:
        use_store(store.environment(endpoint=running.endpoint))
        yield running


def test_what_is_written_is_read_back_listed_and_deleted(storage: Storage):
    storage.write_bytes("a/b.bin", b"0123456789")
    storage.write_bytes("top", b"")
    assert storage.read_bytes("a/b.bin") == b"0123456789"
    assert storage.read_range("a/b.bin", 3, 4) == b"3456"
    assert storage.read_range("a/b.bin", 3, 0) == b""
    assert storage.size_bytes("a/b.bin") == 10 and storage.size_bytes("top") == 0
    assert [(entry.path, entry.size_bytes) for entry in storage.list_files("a")] == [("a/b.bin", 10)]
    assert [entry.path for entry in storage.list_files()] == ["top"]
    assert [entry.path for entry in storage.list_files(recursive=True)] == ["a/b.bin", "top"]
    assert storage.at("a").read_bytes("b.bin") == b"0123456789"
    storage.delete("top")
    storage.delete("never")
    storage.delete_folder("a")
    assert storage.list_files(recursive=True) == []


def test_a_missing_object_is_told_apart(storage: Storage):
    assert storage.size_bytes("missing") is None and not storage.exists("missing")
    for read in (storage.read_bytes, storage.open_input, storage.open_stream):
        with pytest.raises(FileNotFoundError):
            read("missing")


@given(st.text(st.characters(exclude_categories=("C", "Z")), min_size=1).filter(lambda name: name.strip("/")))
def test_an_address_is_the_bucket_and_the_whole_prefix_whatever_is_in_it(name: str):
    place = storage_of(f"s3://bucket/runs/{name}").at("file").s3
    assert place is not None
    assert place._key("") == {"Bucket": "bucket", "Key": f"runs/{name.rstrip('/')}/file"}


@pytest.mark.parametrize("name", ["exp#1", "exp?1", "exp%231", "exp 1", "exp+1&2=3", "Vögel-鳥", "<exp>'1'"])
def test_every_character_of_an_address_counts(store: ObjectStore, storage: Storage, name: str):
    run, other = storage.at(name), storage.at(name[:3])
    run.write_bytes(f"logs/{name}.txt", b"mine")
    assert run.s3 is not None and other.s3 is not None
    assert run.s3.create("marker", b"mine") and other.s3.create("marker", b"another's")
    assert run.read_bytes(f"logs/{name}.txt") == b"mine" and run.read_bytes("marker") == b"mine"
    assert [entry.path for entry in run.list_files(recursive=True)] == [f"logs/{name}.txt", "marker"]
    assert storage.s3 is not None and name in storage.s3.list_folders()
    prefix = storage.url.removeprefix(f"s3://{store.bucket}/")
    assert f"{prefix}/{name}/logs/{name}.txt" in store.keys(prefix)
    run.delete_folder("")
    assert run.list_files(recursive=True) == [] and other.read_bytes("marker") == b"another's"


def test_parquet_is_read_by_range_and_streams_from_the_start(storage: Storage):
    table = pa.table({"number": range(1000)})
    sink = io.BytesIO()
    pq.write_table(table, sink, row_group_size=100)
    storage.write_bytes("t.parquet", sink.getvalue())
    with storage.open_input("t.parquet") as stream:
        assert pq.ParquetFile(stream).read_row_group(7)["number"].to_pylist() == list(range(700, 800))
    with storage.open_stream("t.parquet") as stream:
        assert stream.read() == sink.getvalue()


def test_a_file_of_several_parts_arrives_whole_with_a_version(storage: Storage):
    data = bytes(range(256)) * (PART_BYTES // 256 + 1000)
    small = io.BytesIO(b"small")
    storage.put_stream(small, "small")
    assert storage.read_bytes("small") == b"small" and not small.closed
    version = storage.put_stream(io.BytesIO(data), "large")
    info = storage.info("large")
    assert info is not None and (info.size_bytes, info.version) == (len(data), version)
    assert sha256_in(storage, "large") == sha256_of_stream(io.BytesIO(data).read)


def test_a_lost_reply_to_the_end_of_a_large_upload_is_got_over(storage: Storage, proxy: FaultProxy):
    data = bytes(range(256)) * (PART_BYTES // 256 + 1000)
    proxy.lose_reply(method="POST", key_contains="uploadId=")
    version = storage.put_stream(io.BytesIO(data), "large")
    info = storage.info("large")
    assert len(proxy.met) == 1 and info is not None and (info.size_bytes, info.version) == (len(data), version)


def test_an_upload_that_was_left_open_is_swept(store: ObjectStore, storage: Storage):
    key = storage.url.removeprefix(f"s3://{store.bucket}/") + "/00000.tar"
    store.client().create_multipart_upload(Bucket=store.bucket, Key=key)
    other = store.client().create_multipart_upload(Bucket=store.bucket, Key="another/00000.tar")
    assert storage.sweep_unfinished() == 1
    assert [upload.key for upload in store.uploads()] == ["another/00000.tar"]
    store.client().abort_multipart_upload(Bucket=store.bucket, Key="another/00000.tar", UploadId=other["UploadId"])


def test_only_one_writer_creates_and_only_the_current_version_is_replaced(objects: S3Objects):
    version = objects.create("marker", b"first")
    assert version is not None and objects.create("marker", b"second") is None
    info = objects.info("marker")
    assert info is not None and info.version == version
    replaced = objects.replace("marker", b"third", version)
    info = objects.info("marker")
    assert info is not None and info.version == replaced
    assert not objects.replace("marker", b"fourth", version)
    assert not objects.replace("missing", b"fifth", info.version)
    assert objects.read_bytes("marker") == b"third"


def test_of_eight_racing_writers_one_wins(objects: S3Objects):
    won: list[int] = []
    threads = [
        threading.Thread(target=lambda n=n: objects.create("race", b"%d" % n) and won.append(n)) for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1 and objects.read_bytes("race") == b"%d" % won[0]


def test_a_reply_that_got_lost_does_not_make_a_writer_believe_that_another_one_won(
    objects: S3Objects, proxy: FaultProxy
):
    proxy.lose_reply(key_contains="marker")
    version = objects.create("marker", b"mine")
    info = objects.info("marker")
    assert info is not None and info.version is not None and info.version == version
    proxy.lose_reply(key_contains="marker")
    assert objects.replace("marker", b"mine still", info.version)
    assert len(proxy.met) == 2 and objects.read_bytes("marker") == b"mine still"


def test_throttling_resets_and_cut_answers_are_got_over(storage: Storage, proxy: FaultProxy):
    proxy.slow_down(3)
    proxy.reset(2)
    storage.write_bytes("file", b"x" * 100_000)
    proxy.cut_body(2)
    assert storage.read_bytes("file") == b"x" * 100_000
    proxy.refuse(2.0)
    assert storage.read_range("file", 99_999, 1) == b"x"
    assert len(proxy.met) == 7


def test_a_storage_that_is_away_for_too_long_is_named(storage: Storage, proxy: FaultProxy, use_store: UseStore):
    use_store({"AWS_MAX_ATTEMPTS": "2"})
    proxy.reset(10)
    with pytest.raises(StorageFailed, match="does not answer"):
        storage.write_bytes("file", b"")
    proxy.no_faults()
    proxy.slow_down(10)
    with pytest.raises(StorageFailed, match="SlowDown"):
        storage.write_bytes("file", b"")


def test_wrong_credentials_and_buckets_are_the_users_errors(store: ObjectStore, use_store: UseStore):
    secret = store.environment()["AWS_SECRET_ACCESS_KEY"]
    with pytest.raises(OutputError, match="bucket does not exist"):
        storage_of("s3://no-such-bucket/x").write_bytes("file", b"")
    use_store({"AWS_SECRET_ACCESS_KEY": secret + "x"})
    with pytest.raises(OutputError, match="refuses the credentials") as caught:
        storage_of(store.url("x")).write_bytes("file", b"")
    assert secret not in str(caught.value)


def test_what_was_acknowledged_is_there_after_a_kill(use_store: UseStore):
    with ObjectStore() as store:
        use_store(store.environment())
        objects = S3Objects(store.url("kill"))
        assert objects.create("marker", b"here")
        store.kill()
        restart = threading.Thread(target=store.restart)
        restart.start()
        assert objects.read_bytes("marker") == b"here"  # tried again until the server is back
        restart.join()


def test_storages_that_ignore_conditions_are_found_out_and_refused(store: ObjectStore, use_store: UseStore):
    assert honours_conditions(store.url("probe"))
    require_conditions(store.url("probe"))
    assert store.keys("probe/") == []
    for program, expected in ((moto_server, True), (nanio, False), (localbucket, False)):
        with ObjectStore(program) as other:
            use_store(other.environment())
            assert honours_conditions(other.url("probe")) is expected, program.__name__
            if not expected:
                with pytest.raises(OutputError, match="ignores conditional writes"):
                    require_conditions(other.url("probe"))


def test_a_lease_is_waited_for_and_given_back(storage: Storage):
    said, order = list[str](), list[str]()

    def second() -> None:
        with hold(storage, said.append):
            order.append("second")

    with hold(storage, said.append) as lease:
        thread = threading.Thread(target=second)
        thread.start()
        while not said:
            time.sleep(0.05)
        order.append("first")
        assert lease.is_held
    thread.join()
    assert order == ["first", "second"] and "is being driven by another diptych" in said[0]
    assert storage.list_files() == []


def test_a_lease_whose_holder_died_is_taken_over_and_the_dead_one_knows(objects: S3Objects):
    holder = b'{"pid": 1, "host": "a", "since": 0}'
    dead = ObjectLease(objects, "lease.json", holder, expires_after_s=2.0)
    dead.acquire(lambda _: None)
    dead._ended.set()  # as when its process stops: it renews no more
    told: list[bytes] = []
    living = ObjectLease(objects, "lease.json", holder, expires_after_s=2.0)
    began = time.monotonic()
    living.acquire(told.append)
    assert time.monotonic() - began >= 2.0 and len(told) == 1
    assert living.is_held and not dead.is_held
    dead.release()  # takes nothing away from the new holder
    assert objects.info("lease.json") is not None
    living.release()
    assert objects.info("lease.json") is None


class CutOff(S3Objects):
    """Its requests wait until the network is back, as those do that are tried again; hasty ones give up."""

    is_back = threading.Event()
    is_asked = threading.Event()

    def delete(self, paths: list[str]) -> None:
        self._wait()
        S3Objects.delete(self, paths)

    def replace(self, path: str, data: bytes, version: str) -> str | None:
        if not CutOff.is_back.is_set():
            self._wait()
        return S3Objects.replace(self, path, data, version)

    def _wait(self) -> None:
        CutOff.is_asked.set()
        if self.is_hasty:
            raise StorageFailed("no network")
        CutOff.is_back.wait()


def test_a_lease_that_is_given_back_while_the_network_is_away_takes_nothing_from_the_next_holder(objects: S3Objects):
    first = ObjectLease(CutOff(objects.url), "lease.json", b'{"pid": 1}', expires_after_s=8.0)
    first.acquire(lambda _: None)
    releasing = threading.Thread(target=first.release)
    releasing.start()
    assert CutOff.is_asked.wait(60)
    second = ObjectLease(objects, "lease.json", b'{"pid": 2}', expires_after_s=8.0)
    second.acquire(lambda _: None)
    CutOff.is_back.set()
    releasing.join()
    assert json.loads(objects.read_bytes("lease.json"))["pid"] == 2 and not second.is_lost
    second.release()
    assert objects.info("lease.json") is None


def test_a_lease_survives_a_storage_that_is_away_for_less_than_its_time(objects: S3Objects, proxy: FaultProxy):
    lease = ObjectLease(objects, "lease.json", b'{"pid": 1, "host": "a", "since": 0}', expires_after_s=6.0)
    lease.acquire(lambda _: None)
    proxy.refuse(2.5)
    before = len(proxy.requests)
    deadline = time.monotonic() + 20
    while lease._renewed_at < time.monotonic() - 1.5 or len(proxy.requests) < before + 8:
        assert time.monotonic() < deadline and lease.is_held
        time.sleep(0.05)
    lease.release()
    assert objects.info("lease.json") is None


def test_a_renewal_whose_answer_is_lost_keeps_the_lease(objects: S3Objects, proxy: FaultProxy):
    lease = ObjectLease(objects, "lease.json", b'{"pid": 1, "host": "a", "since": 0}', expires_after_s=12.0)
    lease.acquire(lambda _: None)
    proxy.lose_reply(key_contains="lease.json", times=5)
    deadline = time.monotonic() + 60
    while len(proxy.met) < 5 or lease._renewed_at < time.monotonic() - 3:
        assert time.monotonic() < deadline and not lease.is_lost
        time.sleep(0.05)
    lease.release()
    assert objects.info("lease.json") is None


def test_a_lease_outlives_an_outage_that_is_longer_than_its_time_unless_somebody_took_it(
    objects: S3Objects, proxy: FaultProxy
):
    lease = ObjectLease(objects, "lease.json", b'{"pid": 1, "host": "a", "since": 0}', expires_after_s=3.0)
    lease.acquire(lambda _: None)
    proxy.refuse(6)
    deadline = time.monotonic() + 60
    while lease.is_held:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert not lease.is_lost  # nobody can tell while the storage is away
    while not lease.is_held:
        assert time.monotonic() < deadline and not lease.is_lost
        time.sleep(0.05)
    lease.release()
