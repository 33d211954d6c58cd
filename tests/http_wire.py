"""Reads HTTP/1.1 from asyncio streams byte for byte, for servers and proxies that misbehave on purpose."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

PIECE_BYTES = 64 * 1024
UNTIL_END = -1  # the length of an answer's body that ends with its connection
# What a peer that goes away in the middle raises; IncompleteReadError is an EOFError.
GONE = (OSError, EOFError)


@dataclass(slots=True)
class Head:
    """A request's or an answer's head: its bytes as they came, and what the proxy must know of them."""

    raw: bytes
    first_line: list[str] = field(init=False)
    headers: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        first, *lines = self.raw.decode("latin-1").strip("\r\n").split("\r\n")
        self.first_line = first.split(" ", 2)
        pairs = (line.partition(":") for line in lines)
        self.headers = {name.lower(): value.strip().lower() for name, _, value in pairs}

    method = property(lambda self: self.first_line[0])
    target = property(lambda self: self.first_line[1])
    status = property(lambda self: int(self.first_line[1]))
    chunked = property(lambda self: "chunked" in self.headers.get("transfer-encoding", ""))
    closes = property(lambda self: self.headers.get("connection") == "close")
    waits_for_continue = property(lambda self: "100-continue" in self.headers.get("expect", ""))

    def length(self, otherwise: int) -> int:
        return int(self.headers.get("content-length", otherwise))


async def body_pieces(reader: asyncio.StreamReader, length: int, chunked: bool) -> AsyncIterator[bytes]:
    """A body's bytes as they come, with the chunks' own heads if it is chunked."""
    if chunked:
        while size := int((line := await reader.readuntil(b"\r\n")).split(b";")[0], 16):
            yield line + await reader.readexactly(size + 2)
        yield line
        while (trailer := await reader.readuntil(b"\r\n")) != b"\r\n":
            yield trailer
        yield trailer
        return
    while length and (piece := await reader.read(PIECE_BYTES if length == UNTIL_END else min(length, PIECE_BYTES))):
        length -= len(piece) if length != UNTIL_END else 0
        yield piece
    if length > 0:
        raise asyncio.IncompleteReadError(b"", length)


def reset(writer: asyncio.StreamWriter) -> bool:
    """Ends the connection with a TCP reset; the connection does not live on."""
    linger_zero = struct.pack("ii", 1, 0)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_zero)
    writer.transport.abort()
    return False
