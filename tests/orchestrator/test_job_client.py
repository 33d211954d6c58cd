"""A dashboard that can't be talked to, at whatever moment, is an error for the user."""

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from job_server import JobServer

from infra.errors import MachineError, RunError
from orchestrator.job_client import JobClient, require_dashboard

WHERE = r"--address: no Ray cluster takes jobs at http://127\.0\.0\.1:\d+ \(.+\)\.\nWanted is the dashboard's address"


@pytest.fixture(autouse=True)
def without_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")


@contextlib.contextmanager
def answering(body: bytes) -> Iterator[str]:
    """The address of a web server that answers this to every question."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_cluster_that_dies_after_the_first_word_is_an_error_for_the_user(tmp_path: Path):
    with JobServer() as cluster:
        client = JobClient(cluster.url)
        assert client.status("birds-1") is None
    with pytest.raises(MachineError, match=WHERE):
        client.status("birds-1")
    with pytest.raises(MachineError, match=WHERE):
        client.submit("birds-1", tmp_path, "true", "s3://bucket/runs/birds")


def test_a_name_that_the_cluster_has_is_refused(tmp_path: Path):
    with JobServer() as cluster:
        client = JobClient(cluster.url)
        client.submit("birds-1", tmp_path, "true", "s3://bucket/runs/birds")
        with pytest.raises(RunError, match="refused the job birds-1"):
            client.submit("birds-1", tmp_path, "true", "s3://bucket/runs/birds")
        assert str(client.status("birds-1")) == "PENDING"


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"{}", json.dumps({"ray_version": "1.0"}).encode()])
def test_what_is_no_dashboard_is_an_error_for_the_user(body: bytes):
    with answering(body) as address, pytest.raises(MachineError, match=WHERE):
        JobClient(address)


def test_a_server_that_keeps_silent_is_given_up():
    with socket.create_server(("127.0.0.1", 0)) as server, pytest.raises(MachineError, match=r"(?i)timed out"):
        JobClient(f"http://127.0.0.1:{server.getsockname()[1]}", answer_timeout_s=0.3)


@pytest.mark.parametrize("address", ["10.0.0.7:8265", "10.0.0.7:6379", "auto", "ray://10.0.0.7:10001", "local", ""])
def test_an_address_that_is_no_dashboards_is_refused_with_the_right_form(address: str):
    with pytest.raises(MachineError, match=r"does not begin with http:// or https://.*\n.*http://10\.0\.0\.7:8265"):
        require_dashboard(address)
