"""What a machine lacks is told as its own fault, and never counted as the web's."""

import contextlib
import errno
import itertools
import os
import resource
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from hostile_web import HostileWeb

from datapipe.config import BuildConfig
from datapipe.fetch import Fetcher, FetchRequest, FetchResult
from datapipe.resolve import Addresses, Resolver
from infra.errors import MachineError, OutputError


def fetch_all(
    urls: list[str], resolver: Resolver | None = None, scratch: Path | None = None, **values: object
) -> list[FetchResult]:
    settings = {"input": "", "output": "", "timeout": 5.0, "allow_private_addresses": ["127.0.0.0/8"], **values}
    with Fetcher(BuildConfig.model_validate(settings), resolver, scratch=scratch) as fetcher:
        return list(fetcher.fetch(FetchRequest(row, url) for row, url in enumerate(urls)))


@contextlib.contextmanager
def few_open_files(more: int) -> Iterator[None]:
    """In the block, this process can open so many more files."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = (number for number in itertools.count() if not os.path.lexists(f"/proc/self/fd/{number}"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (next(itertools.islice(free, more, None)), limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.parametrize("proxy", [False, True])
def test_a_machine_without_a_free_socket_is_told_as_such(proxy: bool):
    # Whoever listens and does not accept has the system make the connections.
    with socket.create_server(("127.0.0.1", 0), backlog=200) as silent:
        base = f"http://127.0.0.1:{silent.getsockname()[1]}"
        values = {"connections": 150, "connections_per_host": 150, "proxy": base if proxy else None}
        with few_open_files(20), pytest.raises(MachineError, match=r"Too many open files(?s:.)*ulimit"):
            fetch_all([f"{base}/{number}" for number in range(150)], **values)


def test_a_machine_that_lacks_a_file_to_look_up_a_name_is_told_as_such():
    def look_up(_host: str) -> Addresses:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with pytest.raises(MachineError, match="Too many open files"):
        fetch_all(["http://pictures.example/a.jpg"], Resolver(look_up))


def test_a_large_body_without_a_place_to_wait_ends_the_fetch(web: HostileWeb, tmp_path: Path):
    url = web.serve("/large", b"x" * (6 << 20))
    with pytest.raises(OutputError, match="cannot be written"):
        fetch_all([url], scratch=tmp_path / "gone")
    assert len(fetch_all([web.serve("/small", b"x")], scratch=tmp_path / "gone")) == 1


def test_certificates_that_cannot_be_read_are_no_servers_fault(
    web: HostileWeb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "authorities.pem").write_text("no certificate")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authorities.pem"))
    with pytest.raises(MachineError, match=r"authorities\.pem(?s:.)*SSL_CERT_FILE"):
        fetch_all([f"https://127.0.0.1:{web.port}/a.jpg"])
