"""The demo's web server answers real requests, keeps its port, and is gone when its driver is."""

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from infra.errors import MachineError
from orchestrator.demo.faults import Fault
from orchestrator.demo.web import DemoWeb


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("web") / "pictures"
    folder.mkdir()
    Image.new("RGB", (90, 60), "teal").save(folder / "one_0.jpg")
    Image.new("RGB", (90, 60), "teal").save(folder / "two_0.png")
    (folder / ".complete.json").write_text("{}")
    (folder.parent / "secret.jpg").write_bytes(b"outside")
    return folder


@pytest.fixture(scope="module")
def web(folder: Path) -> Iterator[DemoWeb]:
    with DemoWeb(folder, port_file=folder.parent / "port") as running:
        yield running


def get(web: DemoWeb, path: str, timeout_s: float = 5.0) -> tuple[http.client.HTTPResponse, bytes]:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", web.port, timeout=timeout_s)) as connection:
        connection.request("GET", path)
        response = connection.getresponse()
        return response, response.read()


def test_a_picture_is_served_as_it_is_on_disk(web: DemoWeb, folder: Path):
    response, body = get(web, "/pictures/one_0.jpg")
    assert (response.status, response.getheader("Content-Type")) == (200, "image/jpeg")
    assert body == (folder / "one_0.jpg").read_bytes()


def test_one_connection_serves_many_requests(web: DemoWeb):
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", web.port, timeout=5)) as connection:
        for _ in range(50):
            connection.request("GET", "/pictures/two_0.png")
            assert connection.getresponse().read().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "path", ["/", "/pictures/", "/pictures/none.jpg", "/pictures/../secret.jpg", "/pictures/%2e%2e/secret.jpg"]
)
def test_nothing_but_the_pictures_is_served(web: DemoWeb, path: str):
    assert get(web, path)[0].status == 404


@pytest.mark.parametrize("name", ["/pictures/.complete.json", "/slow", "/opt-out/../../secret.jpg"])
def test_faults_serve_nothing_else_either(web: DemoWeb, name: str):
    response, body = get(web, name)
    assert response.status == 404 and b"outside" not in body


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        (Fault.NOT_FOUND, 404),
        (Fault.FORBIDDEN, 403),
        (Fault.SERVER_ERROR, 500),
        (Fault.REDIRECT, 302),
        (Fault.REDIRECT_LOOP, 302),
        (Fault.HTML, 200),
        (Fault.EMPTY, 200),
    ],
)
def test_faults_answer_with_their_status(web: DemoWeb, fault: Fault, status: int):
    assert get(web, f"/{fault}/one_0.jpg")[0].status == status


def test_faults_look_as_they_do_on_the_web(web: DemoWeb, folder: Path):
    whole = (folder / "one_0.jpg").read_bytes()
    assert get(web, f"/{Fault.HTML}/one_0.jpg")[0].getheader("Content-Type") == "text/html"
    assert get(web, f"/{Fault.EMPTY}/one_0.jpg")[1] == b""
    assert get(web, f"/{Fault.REDIRECT}/one_0.jpg")[0].getheader("Location") == "/pictures/one_0.jpg"
    assert get(web, f"/{Fault.REDIRECT_LOOP}/one_0.jpg")[0].getheader("Location") == "/redirect-loop/one_0.jpg"
    truncated = get(web, f"/{Fault.TRUNCATED}/one_0.jpg")[1]
    assert truncated and whole.startswith(truncated) and len(truncated) < len(whole)
    response, body = get(web, f"/{Fault.OPT_OUT}/one_0.jpg")
    assert (response.getheader("X-Robots-Tag"), body) == ("noai", whole)


def test_the_tiny_picture_is_five_pixels_wide(web: DemoWeb, tmp_path: Path):
    (tmp_path / "tiny.png").write_bytes(get(web, f"/{Fault.TINY}/one_0.jpg")[1])
    assert Image.open(tmp_path / "tiny.png").size == (5, 5)


def test_a_slow_answer_comes_and_a_silent_one_does_not(web: DemoWeb):
    started = time.monotonic()
    assert get(web, f"/{Fault.SLOW}/one_0.jpg")[0].status == 200
    assert time.monotonic() - started > 1.5
    with pytest.raises(TimeoutError):
        get(web, f"/{Fault.NEVER}/one_0.jpg", timeout_s=0.5)


def test_the_port_is_kept_over_a_restart(folder: Path, tmp_path: Path):
    with DemoWeb(folder, port_file=tmp_path / "port") as first:
        assert get(first, "/pictures/one_0.jpg")[0].status == 200
    with DemoWeb(folder, port_file=tmp_path / "port") as second:
        assert get(second, "/pictures/one_0.jpg")[0].status == 200
    assert second.port == first.port


def test_a_port_in_use_is_an_error_that_says_what_to_do(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("orchestrator.demo.web.PORT_RETRY_S", 0.2)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        (tmp_path / "port").write_text(str(port))
        with pytest.raises(MachineError, match=f"Port {port} of 127.0.0.1 is in use") as raised:
            DemoWeb(folder, port_file=tmp_path / "port").__enter__()
    assert raised.value.exit_code == 2
    assert "ss -ltnp" in raised.value.fix


def test_another_port_than_the_one_in_the_urls_is_refused(folder: Path, tmp_path: Path):
    (tmp_path / "port").write_text("40001")
    with pytest.raises(MachineError, match="hold port 40001"):
        DemoWeb(folder, port_file=tmp_path / "port", port=40002).__enter__()


def test_the_server_ends_with_a_driver_that_is_killed(folder: Path, tmp_path: Path):
    program = (
        "import sys, time\nfrom pathlib import Path\nfrom orchestrator.demo.web import DemoWeb\n"
        f"with DemoWeb(Path({str(folder)!r}), port_file=Path({str(tmp_path / 'port')!r})) as web:\n"
        "    print(web.pid, flush=True)\n    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        server_pid = int(driver.stdout.readline())
        os.kill(server_pid, 0)
        driver.send_signal(signal.SIGKILL)
    with DemoWeb(folder, port_file=tmp_path / "port") as again:
        assert get(again, "/pictures/one_0.jpg")[0].status == 200
    assert not is_running(server_pid)


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
