"""Runs the demo's web server in a process of its own, on a port of 127.0.0.1 that stays the same over restarts."""

import errno
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType

from infra.errors import MachineError
from orchestrator.demo.server import PICTURES_PATH

HOST = "127.0.0.1"
BACKLOG = 512
# A server whose driver was killed needs a moment to notice; the port is asked for again until then.
PORT_RETRY_S = 3.0
STOP_WAIT_S = 5.0


class DemoWeb:
    """The demo's web while the block runs.

        with DemoWeb(pictures.folder, port_file=workdir / "web-port") as web:
            write_url_list(workdir / "urls.parquet", pictures, web.base_url, seed)

    The first time any free port (or the given `port`) is taken and its number kept in `port_file`; later the same
    one, since the URLs of the list hold it. The server ends with the block, and with this process however it ends.
    """

    def __init__(self, folder: Path, *, port_file: Path, port: int | None = None) -> None:
        self._folder = folder
        self._port_file = port_file
        self._wanted_port = port
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

    @property
    def base_url(self) -> str:
        """The web's address, without a slash at its end."""
        return f"http://{HOST}:{self.port}"

    def picture_url(self, file: str) -> str:
        """The URL of one picture."""
        return f"{self.base_url}/{PICTURES_PATH}/{file}"

    @property
    def pid(self) -> int | None:
        """The server's process, or None when it does not run."""
        return self._process.pid if self._process else None

    def __enter__(self) -> "DemoWeb":
        with _listen(self._port_to_use(), self._port_file) as listening:
            self.port = listening.getsockname()[1]
            self._remember_port()
            self._process = subprocess.Popen(
                [sys.executable, "-m", "orchestrator.demo.server", str(listening.fileno()), *self._server_arguments()],
                pass_fds=[listening.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C reaches the driver alone, which ends the server last
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_WAIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def _server_arguments(self) -> list[str]:
        return [str(self._folder.resolve()), str(os.getpid())]

    def _port_to_use(self) -> int:
        remembered = _remembered_port(self._port_file)
        if remembered is None:
            return self._wanted_port or 0
        if self._wanted_port not in (None, remembered):
            raise MachineError(
                f"Port {self._wanted_port} was asked for, but the URLs in this folder hold port {remembered}.",
                f"Started again, a demo keeps its port ({self._port_file}).",
                "Leave the port out, or use another working folder.",
            )
        return remembered

    def _remember_port(self) -> None:
        partial = self._port_file.with_suffix(".partial")
        partial.write_text(f"{self.port}\n")
        partial.replace(self._port_file)


def require_port(port_file: Path) -> None:
    """Raises MachineError when the port of a former start is in use by another program."""
    port = _remembered_port(port_file)
    if port is not None:
        _listen(port, port_file).close()


def _remembered_port(port_file: Path) -> int | None:
    try:
        return int(port_file.read_text())
    except (FileNotFoundError, ValueError):
        return None


def _listen(port: int, port_file: Path) -> socket.socket:
    deadline = time.monotonic() + PORT_RETRY_S
    while True:
        listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((HOST, port))
            listening.listen(BACKLOG)
            return listening
        except OSError as error:
            listening.close()
            if error.errno == errno.EADDRINUSE and time.monotonic() < deadline:
                time.sleep(0.1)
                continue
            raise _port_refused(port, port_file, error) from error


def _port_refused(port: int, port_file: Path, error: OSError) -> MachineError:
    reason = "is in use by another program" if error.errno == errno.EADDRINUSE else f"can't be used ({error.strerror})"
    fix = f"End that program (`ss -ltnp 'sport = :{port}'` names it), or use another working folder."
    if not port_file.exists():
        fix = "Leave the port out to have a free one chosen, or give another."
    return MachineError(
        f"Port {port} of {HOST} {reason}.",
        "The demo's web server needs a port of its own, the same at every start: the URLs hold it.",
        fix,
    )
