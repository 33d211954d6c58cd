"""A little web on 127.0.0.1 that behaves and misbehaves as told, byte by byte."""

import contextlib
import os
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

Handler = Callable[["Visit"], None]

TLS_HANDSHAKE = b"\x16"  # RFC 8446, 5.1: the first byte of a client's hello


@dataclass
class Visit:
    """One request: its connection, its path and header lines, and how often that path was asked before."""

    connection: socket.socket
    path: str
    headers: dict[str, str]
    earlier: int
    is_closing: threading.Event

    def send(self, data: bytes) -> None:
        self.connection.sendall(data)

    def answer(self, body: bytes = b"", status: str = "200 OK", **headers: str) -> None:
        """A whole, honest answer; `_` in a header's name stands for `-`."""
        lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.send("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body)

    @property
    def port(self) -> int:
        """The web's own port."""
        return int(self.connection.getsockname()[1])

    def cut(self, data: bytes) -> None:
        """Sends the bytes as they are and ends the connection."""
        self.send(data)
        self.close()

    def repeat(self, data: bytes, every_s: float = 0.0) -> None:
        """Sends the bytes again and again, until the client goes or the web closes."""
        while not self.is_closing.wait(every_s):
            self.send(data)

    def reset(self) -> None:
        """Breaks the connection off with a TCP reset."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(self.connection.detach())

    def close(self) -> None:
        """Ends the connection, whatever has been sent."""
        self.connection.shutdown(socket.SHUT_RDWR)

    def hang(self) -> None:
        """Holds the connection, silent, until the web closes."""
        self.is_closing.wait()


@dataclass
class HostileWeb:
    """Serves `handlers` by path; a path without one gets 404. One thread a connection."""

    address: str = "127.0.0.1"  # that it listens at
    handlers: dict[str, Handler] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)
    seen_headers: list[dict[str, str]] = field(default_factory=list)
    running: int = 0
    most_running: int = 0

    def __enter__(self) -> "HostileWeb":
        self._lock = threading.Lock()
        self._is_closing = threading.Event()
        self._listening = socket.create_server((self.address, 0), backlog=512)
        self.port = self._listening.getsockname()[1]
        self.base = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_closing.set()
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def at(self, path: str, handler: Handler) -> str:
        """Has the path answered by the handler; returns its URL."""
        self.handlers[path] = handler
        return self.base + path

    def serve(self, path: str, body: bytes, **headers: str) -> str:
        """Has the path answered with the body; returns its URL."""
        return self.at(path, lambda visit: visit.answer(body, **headers))

    def _accept(self) -> None:
        while not self._is_closing.is_set():
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=[connection], daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError), connection, connection.makefile("rb") as stream:
            if stream.peek(1)[:1] == TLS_HANDSHAKE:
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                return
            while line := stream.readline(65536):
                path = line.decode("latin-1").split(" ")[1]
                headers: dict[str, str] = {}
                while (header := stream.readline(65536)).strip():
                    name, _, value = header.decode("latin-1").partition(":")
                    headers[name.lower()] = value.strip()
                self._visit(Visit(connection, path, headers, 0, self._is_closing))

    def _visit(self, visit: Visit) -> None:
        path = visit.path.partition("?")[0]
        with self._lock:
            visit.earlier = self.asked[path]
            self.asked[path] += 1
            self.seen_headers.append(visit.headers)
            self.running += 1
            self.most_running = max(self.most_running, self.running)
        try:
            self.handlers.get(path, lambda lost: lost.answer(status="404 Not Found"))(visit)
        finally:
            with self._lock:
                self.running -= 1


def drip(visit: Visit, byte_every_s: float = 0.2) -> None:
    """Sends a large answer, byte by byte."""
    visit.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    visit.repeat(b"x", byte_every_s)


def endless(visit: Visit) -> None:
    """Sends a body without length and without end."""
    visit.send(b"HTTP/1.1 200 OK\r\n\r\n")
    visit.repeat(b"\xff\xd8\xff\xe0" * 16384)
