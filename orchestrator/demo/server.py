"""Answers the demo's HTTP requests: the pictures of one folder, and each kind of fault under a path of its own.

Started by `web.py` as a process of its own, so that it takes no turn in the interpreter of whoever builds.
"""

import asyncio
import io
import os
import re
import socket
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path

from PIL import Image

from orchestrator.demo.faults import SLOW_ANSWER_S, Fault
from orchestrator.demo.processes import end_with_parent

PICTURES_PATH = "pictures"
PICTURE_NAME = re.compile(r"[0-9a-z_-]+\.(jpg|png|webp)")  # no dot but the last: no way out of the folder
CONTENT_TYPES = {"jpg": "image/jpeg", "png": "image/png", "webp": "image/webp"}
MAX_REQUEST_BYTES = 16 << 10
HTML_PAGE = b"<!doctype html><title>Gone</title><p>This picture has moved. <a href='/'>Look at our offers!</a>\n"


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP response."""

    status: str
    body: bytes = b""
    content_type: str = "text/plain"
    headers: dict[str, str] = field(default_factory=dict)

    def encode(self, *, with_body: bool, keep_alive: bool) -> bytes:
        """The bytes to send."""
        lines = [
            f"HTTP/1.1 {self.status}",
            f"Date: {formatdate(usegmt=True)}",
            f"Content-Type: {self.content_type}",
            f"Content-Length: {len(self.body)}",
            f"Connection: {'keep-alive' if keep_alive else 'close'}",
            *(f"{name}: {value}" for name, value in self.headers.items()),
        ]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + (self.body if with_body else b"")


@dataclass(frozen=True, slots=True)
class Pictures:
    """The folder that is served; nothing outside it is."""

    folder: Path

    def answer(self, name: str) -> Answer:
        """The picture of that name, or 404."""
        if not PICTURE_NAME.fullmatch(name):
            return Answer("404 Not Found")
        try:
            body = (self.folder / name).read_bytes()
        except FileNotFoundError:
            return Answer("404 Not Found")
        return Answer("200 OK", body, CONTENT_TYPES[name.rpartition(".")[2]])


async def serve(listening: socket.socket, folder: Path) -> None:
    """Answers requests on the socket until the process ends."""
    pictures = Pictures(folder)
    server = await asyncio.start_server(
        lambda reader, writer: _serve_connection(pictures, reader, writer), sock=listening, limit=MAX_REQUEST_BYTES
    )
    async with server:
        await server.serve_forever()


async def _serve_connection(pictures: Pictures, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            method, _, rest = head.partition(" ")
            path = rest.partition(" ")[0]
            keep_alive = "connection: close" not in head.lower()
            answer = await answer_to(pictures, path) if method in ("GET", "HEAD") else Answer("405 Method Not Allowed")
            writer.write(answer.encode(with_body=method != "HEAD", keep_alive=keep_alive))
            await writer.drain()
            if not keep_alive:
                return
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError):
        return  # the client has gone, or sends what is no request
    finally:
        writer.close()


async def answer_to(pictures: Pictures, path: str) -> Answer:
    """What is answered to a path: `/pictures/NAME`, or `/FAULT/NAME` for a picture that misbehaves."""
    kind, _, name = path.partition("?")[0].lstrip("/").partition("/")
    if kind == PICTURES_PATH:
        return pictures.answer(name)
    try:
        return await FAULT_ANSWERS[Fault(kind)](pictures, name)
    except (ValueError, KeyError):
        return Answer("404 Not Found")


async def _not_found(pictures: Pictures, name: str) -> Answer:
    return Answer("404 Not Found", HTML_PAGE, "text/html")


async def _forbidden(pictures: Pictures, name: str) -> Answer:
    return Answer("403 Forbidden", b"No hotlinking.\n")


async def _server_error(pictures: Pictures, name: str) -> Answer:
    return Answer("500 Internal Server Error", b"Something went wrong.\n")


async def _slow(pictures: Pictures, name: str) -> Answer:
    await asyncio.sleep(SLOW_ANSWER_S)
    return pictures.answer(name)


async def _never(pictures: Pictures, name: str) -> Answer:
    await asyncio.sleep(3600)
    return Answer("503 Service Unavailable")


async def _redirect(pictures: Pictures, name: str) -> Answer:
    return Answer("302 Found", headers={"Location": f"/{PICTURES_PATH}/{name}"})


async def _redirect_loop(pictures: Pictures, name: str) -> Answer:
    return Answer("302 Found", headers={"Location": f"/{Fault.REDIRECT_LOOP}/{name}"})


async def _html(pictures: Pictures, name: str) -> Answer:
    return Answer("200 OK", HTML_PAGE, "text/html")


async def _truncated(pictures: Pictures, name: str) -> Answer:
    whole = pictures.answer(name)
    return Answer(whole.status, whole.body[: len(whole.body) // 3], whole.content_type)


async def _tiny(pictures: Pictures, name: str) -> Answer:
    file = io.BytesIO()
    Image.new("RGB", (5, 5), "salmon").save(file, "PNG")
    return Answer("200 OK", file.getvalue(), "image/png")


async def _opt_out(pictures: Pictures, name: str) -> Answer:
    picture = pictures.answer(name)
    return Answer(picture.status, picture.body, picture.content_type, {"X-Robots-Tag": "noai"})


async def _empty(pictures: Pictures, name: str) -> Answer:
    return Answer("200 OK", b"", "image/jpeg")


FAULT_ANSWERS: dict[Fault, Callable[[Pictures, str], Awaitable[Answer]]] = {
    Fault.NOT_FOUND: _not_found,
    Fault.FORBIDDEN: _forbidden,
    Fault.SERVER_ERROR: _server_error,
    Fault.SLOW: _slow,
    Fault.NEVER: _never,
    Fault.REDIRECT: _redirect,
    Fault.REDIRECT_LOOP: _redirect_loop,
    Fault.HTML: _html,
    Fault.TRUNCATED: _truncated,
    Fault.TINY: _tiny,
    Fault.OPT_OUT: _opt_out,
    Fault.EMPTY: _empty,
}


def main(arguments: list[str]) -> None:
    """`python -m orchestrator.demo.server SOCKET_FD FOLDER PARENT_PID`."""
    socket_fd, folder, parent_pid = arguments
    if os.getppid() != int(parent_pid):
        return
    end_with_parent(int(parent_pid))
    asyncio.run(serve(socket.socket(fileno=int(socket_fd)), Path(folder)))


if __name__ == "__main__":
    main(sys.argv[1:])
