"""The S3 servers and the fault proxy of the tests do what their names say."""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from botocore.exceptions import BotoCoreError, ClientError
from fault_proxy import Fault, FaultProxy
from object_store import ObjectStore
from other_stores import localbucket, moto_server, nanio
from pyarrow.fs import S3FileSystem

BIG = os.urandom(300_000)
BROKEN_CONNECTION = (BotoCoreError, OSError)


@pytest.fixture
def proxy(object_store: ObjectStore) -> Iterator[FaultProxy]:
    with FaultProxy(object_store.endpoint) as proxy:
        yield proxy


@pytest.fixture
def client(object_store: ObjectStore, proxy: FaultProxy) -> Any:
    """Through the proxy, without retries."""
    return object_store.client(endpoint=proxy.endpoint)


def put(client: Any, key: str, content: bytes = b"content", **conditions: str) -> None:
    client.put_object(Bucket="diptych-test", Key=key, Body=content, **conditions)


def get(client: Any, key: str) -> bytes:
    return client.get_object(Bucket="diptych-test", Key=key)["Body"].read()


def status_of(error: pytest.ExceptionInfo[ClientError]) -> int:
    return error.value.response["ResponseMetadata"]["HTTPStatusCode"]


def test_what_is_put_is_got_and_listed(object_store: ObjectStore):
    client = object_store.client()
    put(client, "basic/big", BIG)
    put(client, "basic/a folder/kleine Größe", b"")
    assert get(client, "basic/big") == BIG
    assert object_store.keys("basic/") == ["basic/a folder/kleine Größe", "basic/big"]
    assert object_store.url("basic/run") == "s3://diptych-test/basic/run"


def test_of_two_writers_of_a_new_object_the_second_gets_412(object_store: ObjectStore):
    client = object_store.client()
    put(client, "condition/lease", b"first", IfNoneMatch="*")
    with pytest.raises(ClientError) as error:
        put(client, "condition/lease", b"second", IfNoneMatch="*")
    assert status_of(error) == 412
    assert get(client, "condition/lease") == b"first"


def test_a_wrong_secret_is_refused(object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(object_store, "_credentials", object_store._credentials._replace(secret_key="wrong"))
    with pytest.raises(ClientError) as error:
        put(object_store.client(), "secret/a")
    assert status_of(error) == 403


def test_open_multipart_uploads_are_listed(object_store: ObjectStore):
    client = object_store.client()
    upload = client.create_multipart_upload(Bucket=object_store.bucket, Key="multipart/a")
    assert ("multipart/a", upload["UploadId"]) in object_store.uploads()
    client.abort_multipart_upload(Bucket=object_store.bucket, Key="multipart/a", UploadId=upload["UploadId"])
    assert not [upload for upload in object_store.uploads() if upload.key == "multipart/a"]


def test_a_client_finds_the_store_by_its_environment(object_store: ObjectStore):
    code = "import boto3; boto3.client('s3').put_object(Bucket='diptych-test', Key='environment/a', Body=b'1')"
    subprocess.run([sys.executable, "-c", code], env=os.environ | object_store.environment(), check=True, timeout=60)
    assert object_store.keys("environment/") == ["environment/a"]


def test_acknowledged_objects_outlive_kill_9_and_a_restart_leaves_nothing_behind():
    with ObjectStore() as store:
        client = store.client()
        endpoint, folder, first_pid = store.endpoint, store.folder, store.server.pid
        for number in range(20):
            put(client, f"run/{number:02d}", BIG[: 10_000 * number])
        store.kill()
        with pytest.raises(BROKEN_CONNECTION):
            put(client, "run/late")
        store.restart()
        assert store.endpoint == endpoint and store.server.pid != first_pid
        assert [get(client, key) for key in store.keys("run/")] == [BIG[: 10_000 * number] for number in range(20)]
        sockets = list(Path("/tmp").glob(f"seaweedfs-*{endpoint.rsplit(':')[-1]}.sock"))
        last_pid = store.server.pid
    assert sockets and not any(path.exists() for path in sockets)
    assert not folder.exists() and not psutil.pid_exists(last_pid)


def test_a_store_that_was_stopped_answers_when_it_goes_on():
    with ObjectStore() as store:
        store.stop_answering()
        with pytest.raises(BotoCoreError, match="timeout"):
            put(store.client(read_timeout_s=0.5), "stopped")
        store.go_on()
        put(store.client(), "went-on")
        assert set(store.keys()) >= {"went-on"}  # the abandoned request may have been done as well
        store.stop_answering()
        pid = store.server.pid
    assert not psutil.pid_exists(pid)


def test_a_failing_test_leaves_no_server_and_no_folder():
    with pytest.raises(ZeroDivisionError), ObjectStore(moto_server) as store:
        pid, folder = store.server.pid, store.folder
        raise ZeroDivisionError
    assert not psutil.pid_exists(pid) and not folder.exists()


def test_a_server_dies_with_a_killed_test_process_but_not_with_the_thread_that_started_it(tmp_path: Path):
    code = """
import sys, threading, time
from pathlib import Path
from server_process import ServerProcess
server = ServerProcess([sys.executable, "-c", "import time; time.sleep(600)"], {}, Path.cwd())
thread = threading.Thread(target=server.start)
thread.start()
thread.join()
time.sleep(0.5)
print(server.pid if server.runs else "gone", flush=True)
time.sleep(600)
"""
    tests = str(Path(__file__).parent.parent)
    environment = os.environ | {"PYTHONPATH": tests}
    with subprocess.Popen(
        [sys.executable, "-c", code], env=environment, cwd=tmp_path, stdout=subprocess.PIPE
    ) as parent:
        server = psutil.Process(int(parent.stdout.readline()))
        parent.send_signal(signal.SIGKILL)
        server.wait(timeout=30)


@pytest.mark.parametrize(("program", "second_writer"), [(moto_server, 412), (nanio, 200), (localbucket, 412)])
def test_the_other_stores_answer_a_second_writer_as_their_docstrings_say(program: Any, second_writer: int):
    with ObjectStore(program) as store:
        client = store.client()
        put(client, "a", BIG, IfNoneMatch="*")
        try:
            put(client, "a", b"second", IfNoneMatch="*")
            status = 200
        except ClientError as error:
            status = error.response["ResponseMetadata"]["HTTPStatusCode"]
        assert status == second_writer
        assert store.keys() == ["a"]


@pytest.mark.parametrize(("program", "survives"), [(moto_server, False), (nanio, True), (localbucket, True)])
def test_the_other_stores_can_be_killed_and_restarted(program: Any, survives: bool):
    with ObjectStore(program) as store:
        put(store.client(), "a")
        store.kill()
        store.restart()
        assert store.keys() == (["a"] if survives else [])


def test_the_proxy_passes_on_what_it_is_not_asked_to_break(object_store: ObjectStore, proxy: FaultProxy, client: Any):
    put(client, "proxy/ümlaut/big", BIG * 10)
    put(client, "proxy/empty", b"")
    assert get(client, "proxy/ümlaut/big") == BIG * 10 and get(client, "proxy/empty") == b""
    assert client.head_object(Bucket=object_store.bucket, Key="proxy/empty")["ContentLength"] == 0
    part = client.get_object(Bucket=object_store.bucket, Key="proxy/ümlaut/big", Range="bytes=5-9")
    assert part["Body"].read() == BIG[5:10]
    assert client.list_objects_v2(Bucket=object_store.bucket, Prefix="proxy/")["KeyCount"] == 2
    client.delete_object(Bucket=object_store.bucket, Key="proxy/empty")
    assert object_store.keys("proxy/") == ["proxy/ümlaut/big"]
    assert [method for method, _ in proxy.requests] == ["PUT", "PUT", "GET", "GET", "HEAD", "GET", "GET", "DELETE"]
    assert proxy.requests[1] == ("PUT", "/diptych-test/proxy/empty") and not proxy.met


def test_the_proxy_passes_on_a_refused_write_and_serves_on(proxy: FaultProxy, client: Any):
    put(client, "proxy/new", BIG, IfNoneMatch="*")
    with pytest.raises(ClientError) as error:
        put(client, "proxy/new", BIG * 4, IfNoneMatch="*")
    assert status_of(error) == 412
    assert get(client, "proxy/new") == BIG


def test_the_proxy_serves_many_clients_at_once(object_store: ObjectStore, proxy: FaultProxy):
    def write(number: int) -> None:
        client = object_store.client(endpoint=proxy.endpoint)
        for turn in range(5):
            put(client, f"many/{number}-{turn}", BIG)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(object_store.keys("many/")) == 40


@pytest.mark.parametrize("size_bytes", [7, 300_000])
def test_a_lost_reply_is_an_error_for_the_client_and_an_object_in_the_store(
    object_store: ObjectStore, proxy: FaultProxy, client: Any, size_bytes: int
):
    key = f"lost/{size_bytes}"
    proxy.lose_reply(method="PUT", key_contains=key)
    put(client, "lost/another")
    with pytest.raises(BROKEN_CONNECTION):
        put(client, key, BIG[:size_bytes], IfNoneMatch="*")
    assert get(client, key) == BIG[:size_bytes]
    assert proxy.met == [(Fault.LOSE_REPLY, "PUT", f"/diptych-test/{key}")]
    with pytest.raises(ClientError) as error:
        put(client, key, BIG[:size_bytes], IfNoneMatch="*")
    assert status_of(error) == 412


def test_a_client_that_retries_after_a_lost_reply_is_told_that_its_own_object_is_in_the_way(
    object_store: ObjectStore, proxy: FaultProxy
):
    proxy.lose_reply(key_contains="naive")
    with pytest.raises(ClientError) as error:
        put(object_store.client(endpoint=proxy.endpoint, attempts=3), "lost/naive", b"mine", IfNoneMatch="*")
    assert status_of(error) == 412 and len(proxy.requests) == 2
    assert get(object_store.client(), "lost/naive") == b"mine"


def test_slow_down_keeps_the_next_requests_from_the_store(object_store: ObjectStore, proxy: FaultProxy, client: Any):
    proxy.slow_down(times=2)
    for content in (b"small", BIG):
        with pytest.raises(ClientError, match="SlowDown") as error:
            put(client, "slow/a", content)
        assert status_of(error) == 503
    assert object_store.keys("slow/") == []
    put(client, "slow/a")
    assert object_store.keys("slow/") == ["slow/a"]


def test_a_client_that_retries_gets_past_slow_down_and_resets(object_store: ObjectStore, proxy: FaultProxy):
    proxy.slow_down(times=1, method="PUT")
    proxy.reset(times=1, method="PUT")
    put(object_store.client(endpoint=proxy.endpoint, attempts=4), "retried/a", BIG)
    assert [fault for fault, _, _ in proxy.met] == [Fault.RESET, Fault.SLOW_DOWN]
    assert object_store.keys("retried/") == ["retried/a"] and len(proxy.requests) == 3


def test_a_reset_keeps_the_request_from_the_store(object_store: ObjectStore, proxy: FaultProxy, client: Any):
    proxy.reset(times=1, key_contains="reset/a")
    with pytest.raises(BROKEN_CONNECTION):
        put(client, "reset/a")
    assert object_store.keys("reset/") == []
    put(client, "reset/a")


def test_a_store_that_refuses_for_a_time_comes_back(proxy: FaultProxy, client: Any):
    put(client, "refuse/a")
    proxy.refuse(seconds=600)
    for _ in range(3):
        with pytest.raises(BROKEN_CONNECTION):
            get(client, "refuse/a")
    proxy.no_faults()
    assert get(client, "refuse/a") == b"content"


def test_a_cut_body_is_an_error_in_the_middle_of_reading(proxy: FaultProxy, client: Any):
    put(client, "cut/a", BIG)
    proxy.cut_body(times=1)
    body = client.get_object(Bucket="diptych-test", Key="cut/a")["Body"]
    received = b""
    with pytest.raises(BROKEN_CONNECTION):
        while piece := body.read(1000):
            received += piece
    assert 0 < len(received) < len(BIG) and BIG.startswith(received)
    assert get(client, "cut/a") == BIG


def test_a_delay_is_longer_than_an_impatient_client_waits(object_store: ObjectStore, proxy: FaultProxy):
    client = object_store.client(endpoint=proxy.endpoint, read_timeout_s=0.5)
    proxy.delay_s = 600
    with pytest.raises(BotoCoreError, match="timeout"):
        put(client, "delay/a", b"")
    proxy.no_faults()
    put(client, "delay/a", b"")


def test_a_proxy_of_a_dead_store_resets_its_clients():
    with ObjectStore(moto_server) as store, FaultProxy(store.endpoint) as proxy:
        client = store.client(endpoint=proxy.endpoint)
        put(client, "a")
        store.kill()
        with pytest.raises(BROKEN_CONNECTION):
            put(client, "a")
        store.restart()
        put(client, "a")


def test_chunked_requests_and_their_trailers_pass_unchanged():
    request = (
        b"PUT /diptych-test/chunked HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        b"5;x=y\r\nhello\r\n6\r\n world\r\n0\r\nTrailer: 1\r\n\r\n"
    )
    answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
    with socket.create_server(("127.0.0.1", 0)) as server, FaultProxy(address_of(server)) as proxy:
        client = socket.create_connection(("127.0.0.1", int(proxy.endpoint.rsplit(":")[-1])))
        client.sendall(request)
        connection, _ = server.accept()
        with client, connection:
            assert connection.recv(len(request), socket.MSG_WAITALL) == request
            connection.sendall(answer)
            assert client.recv(len(answer), socket.MSG_WAITALL) == answer


def test_pyarrow_writes_and_reads_through_the_proxy(object_store: ObjectStore, proxy: FaultProxy):
    variables = object_store.environment(endpoint=proxy.endpoint)
    files = S3FileSystem(
        access_key=variables["AWS_ACCESS_KEY_ID"],
        secret_key=variables["AWS_SECRET_ACCESS_KEY"],
        endpoint_override=variables["AWS_ENDPOINT_URL"],
        region=variables["AWS_REGION"],
    )
    proxy.slow_down(times=1, key_contains="pyarrow/big")
    proxy.reset(times=1, key_contains="pyarrow/big")
    with files.open_output_stream("diptych-test/pyarrow/big") as stream:
        stream.write(BIG * 40)
    with files.open_input_file("diptych-test/pyarrow/big") as stream:
        assert stream.read() == BIG * 40
    assert len(proxy.met) == 2 and object_store.keys("pyarrow/") == ["pyarrow/big"]


def address_of(server: socket.socket) -> str:
    return f"http://127.0.0.1:{server.getsockname()[1]}"
