"""What answers at a cluster's address is found out at once, where Ray itself would try for ten minutes."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.cluster import connect
from infra.cluster_address import FRAME_HEAD_BYTES, PREFACE, require_head
from infra.errors import MachineError

# As gRPC's own server answers, of which Ray's head is one.
SETTINGS_OF_GRPC = bytes.fromhex("000018040000000000000400400000000500400000000600004000fe0300000001")


@contextlib.contextmanager
def answering(answer: bytes | None) -> Iterator[str]:
    """The address of a server that answers so to whom it has heard out, and hangs up; with None it keeps silent."""
    with socket.create_server(("", 0)) as server:

        def serve() -> None:
            guest, _ = server.accept()
            with guest:
                guest.recv(len(PREFACE), socket.MSG_WAITALL)
                if answer is None:
                    guest.recv(1)
                else:
                    guest.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        thread.join()


def test_what_speaks_as_a_head_does_is_left_to_ray():
    for answer in (SETTINGS_OF_GRPC, SETTINGS_OF_GRPC[:FRAME_HEAD_BYTES]):
        with answering(answer) as address:
            require_head(address)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.0 400 Bad Request\r\n\r\n", "a web server, such as a cluster's dashboard, does"),
        (b"<!DOCTYPE HTML>", "a web server, such as a cluster's dashboard, does"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "something else does"),
        (b"", "something else does"),
    ],
)
def test_another_server_than_a_head_is_told_with_the_port_that_is_wanted(answer: bytes, words: str, tmp_path: Path):
    with answering(answer) as address, pytest.raises(MachineError) as caught, connect(tmp_path, address=address):
        pass
    assert f"No Ray cluster answers at {address}: {words}." in str(caught.value)
    assert "10.0.0.7:6379" in str(caught.value) and "submit --address http://HEAD:8265" in str(caught.value)


def test_a_server_that_keeps_silent_is_given_up():
    with answering(None) as address, pytest.raises(MachineError, match="timed out"):
        require_head(address, answer_timeout_s=0.3)


def test_a_cluster_with_tls_is_left_to_ray(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RAY_USE_TLS", "1")
    with answering(b"") as address:
        require_head(address)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "[::1]:1", "10.0.0.7:99999", f"{'x' * 70}.example:6379"])
def test_an_address_that_nobody_can_ask_is_an_error_for_the_user(address: str):
    with pytest.raises(MachineError, match="No Ray cluster answers at"):
        require_head(address)


def test_the_dashboards_address_is_told_from_a_heads():
    with pytest.raises(MachineError, match=r"is the address of a dashboard.*\n.*6379.*\n.*diptych submit"):
        require_head("http://10.0.0.7:8265")


@pytest.mark.parametrize("address", ["auto", "local"])
def test_an_address_without_a_port_is_left_to_ray(address: str):
    require_head(address)


@pytest.mark.parametrize("address", ["ray://me:planted@h:10001", "https://planted@ray.example", "h:1?token=planted"])
def test_a_login_in_an_address_is_refused_without_showing_it(address: str):
    with pytest.raises(MachineError, match=r"--address: holds a login") as caught:
        require_head(address)
    assert "planted" not in str(caught.value) and "RAY_AUTH_TOKEN" in str(caught.value)
