"""Runs a server program on 127.0.0.1 for a test; however the test ends, the server ends with it."""

import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Self

# Below the ports that Linux hands out by itself (32768 and up), also after adding 10000.
FIRST_PORT, LAST_PORT = 10_240, 22_700
SECOND_PORT_OFFSET = 10_000
# Asks the kernel to kill this process when the thread that started it dies, then becomes the server.
DIE_WITH_PARENT = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9); os.getppid() == int(sys.argv[1]) or os._exit(1); "
    "os.execv(sys.argv[2], sys.argv[2:])"
)


class ServerProcess:
    """One program that can be killed, started again, stopped and continued; its output goes to `log`.

    The program's own command line stays the same over restarts, and so do its folder and ports.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], folder: Path) -> None:
        self.command = list(command)
        self.folder = folder
        self.log = folder / "server.log"
        self._environment = dict(environment)
        self._process: subprocess.Popen[bytes] | None = None
        # The kernel watches the starting thread: one that lives as long as this object, whoever calls start().
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="server-starter")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._starter.shutdown()

    @property
    def pid(self) -> int:
        """The process id of the server that runs now."""
        assert self._process, "the server was not started"
        return self._process.pid

    @property
    def runs(self) -> bool:
        """Whether the process exists, be it stopped or not."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Starts the program; it need not be ready when this returns."""
        assert not self.runs, "the server runs already"
        self._process = self._starter.submit(self._popen).result()

    def kill(self) -> None:
        """kill -9, also of a stopped process; returns when it is gone."""
        if self._process:
            self._process.kill()
            self._process.wait(timeout=30)

    def stop_answering(self) -> None:
        """SIGSTOP: the kernel still accepts connections, nothing is answered; returns when it stands still."""
        os.kill(self.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED)

    def go_on(self) -> None:
        """SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)

    def last_output(self, characters: int = 3000) -> str:
        """The end of the log, for a message."""
        return self.log.read_text(errors="replace")[-characters:] if self.log.exists() else ""

    def _popen(self) -> subprocess.Popen[bytes]:
        launcher = [sys.executable, "-I", "-S", "-c", DIE_WITH_PARENT, str(os.getpid())]
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [*launcher, *self.command],
                cwd=self.folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )


def free_ports(count: int) -> list[int]:
    """Ports P of which both P and P+10000 are free on 127.0.0.1 now."""
    ports: list[int] = []
    with ExitStack() as held:
        for port in random.SystemRandom().sample(range(FIRST_PORT, LAST_PORT), k=LAST_PORT - FIRST_PORT):
            if len(ports) == count:
                return ports
            with suppress(OSError):
                for number in (port, port + SECOND_PORT_OFFSET):
                    held.enter_context(socket.socket()).bind(("127.0.0.1", number))
                ports.append(port)
    raise OSError(f"fewer than {count} free ports between {FIRST_PORT} and {LAST_PORT}")
