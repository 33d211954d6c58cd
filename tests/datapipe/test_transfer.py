"""What a machine lacks is told as its own fault, and never counted as the web's."""

import contextlib
import errno
import itertools
import os
import resource
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hostile_web import HostileWeb

from datapipe import authorities
from datapipe.config import BuildConfig
from datapipe.fetch import Fetcher, FetchRequest, FetchResult
from datapipe.resolve import Addresses, Resolver
from datapipe.status import SampleStatus
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


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    """A certificate for 127.0.0.1 that vouches for itself, with its key, in a folder as OpenSSL hashes them."""
    if shutil.which("openssl") is None:
        pytest.skip("the command openssl is not here")
    folder = tmp_path / "authorities"
    folder.mkdir()
    of_this_machine = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", str(tmp_path / "key.pem"), "-out", str(folder / "certificate.pem")]
    for command in (
        ["req", "-x509", "-newkey", "rsa:2048", "-nodes", *of_this_machine, *files],
        ["rehash", str(folder)],
    ):
        subprocess.run(["openssl", *command], check=True, capture_output=True)
    return folder


@pytest.fixture
def picture_over_tls(authority: Path) -> Iterator[str]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority / "certificate.pem", authority.parent / "key.pem")

    def answer(listening: socket.socket) -> None:
        with contextlib.suppress(OSError), context.wrap_socket(listening.accept()[0], server_side=True) as connection:
            connection.recv(4096)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\npicture")

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=answer, args=[listening])
        thread.start()
        yield f"https://127.0.0.1:{listening.getsockname()[1]}/a.jpg"
        listening.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.mark.parametrize("file", [None, "certificate.pem", "typo.pem"])
def test_a_folder_of_certificates_is_enough(
    file: str | None, authority: Path, picture_over_tls: str, monkeypatch: pytest.MonkeyPatch
):
    if file is not None:
        monkeypatch.setenv("SSL_CERT_FILE", str(authority / file))
    monkeypatch.setenv("SSL_CERT_DIR", str(authority))
    (result,) = fetch_all([picture_over_tls])
    assert result.status is SampleStatus.SUCCESS and result.body.take() == b"picture"


@pytest.mark.parametrize("folder", ["gone", "not hashed"])
def test_without_certificates_nothing_is_fetched_over_tls(
    folder: str, web: HostileWeb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "not hashed").mkdir()
    (tmp_path / "not hashed" / "certificate.pem").touch()
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "typo.pem"))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / folder))
    with pytest.raises(MachineError, match=rf"typo\.pem.*{folder}(?s:.)*ca-certificates"):
        fetch_all([f"https://127.0.0.1:{web.port}/a.jpg"])
    assert [result.status for result in fetch_all([web.serve("/a.jpg", b"x")])] == [SampleStatus.SUCCESS]


def test_a_python_that_knows_no_place_takes_the_systems_certificates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    nowhere = ssl.DefaultVerifyPaths(None, None, "SSL_CERT_FILE", "", "SSL_CERT_DIR", "")
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: nowhere)
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)
    (tmp_path / "authorities.pem").touch()
    monkeypatch.setattr(authorities, "SYSTEM_FILES", (str(tmp_path / "gone"), str(tmp_path / "authorities.pem")))
    assert authorities.find_authorities() == authorities.Authorities(str(tmp_path / "authorities.pem"), None)
    monkeypatch.setattr(authorities, "SYSTEM_FILES", ())
    assert authorities.find_authorities() is None
    assert "there are none where systems keep them" in str(authorities.unreadable(None))
