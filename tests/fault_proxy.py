"""Stands between an S3 client and its store, and does to chosen requests what networks and overloaded stores do."""

import asyncio
import random
import threading
import time
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self
from urllib.parse import unquote, urlsplit

from http_wire import GONE, UNTIL_END, Head, body_pieces, reset

SLOW_DOWN_XML = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"


class Fault(StrEnum):
    """What can happen to a request."""

    SLOW_DOWN = "slow_down"
    RESET = "reset"
    LOSE_REPLY = "lose_reply"
    CUT_BODY = "cut_body"


@dataclass(slots=True)
class Rule:
    """The next `times` requests that match meet the fault."""

    fault: Fault
    times: int
    method: str  # "" for any
    key_contains: str

    def matches(self, fault: Fault, request: Head) -> bool:
        fits = self.method in ("", request.method) and self.key_contains in unquote(request.target)
        return fits and self.fault == fault and self.times > 0


class FaultProxy:
    """An HTTP proxy on 127.0.0.1 in a thread of its own; bytes pass unchanged, so that signatures stay right.

        with FaultProxy(store.endpoint) as proxy:
            client = store.client(endpoint=proxy.endpoint)
            proxy.lose_reply(method="PUT", key_contains="lease")

    requests: (method, target with its query) of every request seen.
    met: (fault, method, target) of every fault that happened.
    delay_s: how long each request waits before it is forwarded.
    """

    def __init__(self, endpoint: str) -> None:
        address = urlsplit(endpoint)
        self.requests: list[tuple[str, str]] = []
        self.met: list[tuple[Fault, str, str]] = []
        self.delay_s = 0.0
        self._store = (address.hostname, address.port)
        self._rules: list[Rule] = []
        self._shares: dict[Fault, float] = {}
        self._chance = random.Random(0)
        self._refuse_until = 0.0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = self._in_loop(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    def __exit__(self, *_: object) -> None:
        self._in_loop(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def slow_down(self, times: int = 1, method: str = "", key_contains: str = "") -> None:
        """503 SlowDown; the store doesn't see the request."""
        self._rules.append(Rule(Fault.SLOW_DOWN, times, method, key_contains))

    def reset(self, times: int = 1, method: str = "", key_contains: str = "") -> None:
        """The connection is reset; the store doesn't see the request."""
        self._rules.append(Rule(Fault.RESET, times, method, key_contains))

    def lose_reply(self, method: str = "PUT", key_contains: str = "", times: int = 1) -> None:
        """The store does what was asked, and the connection is reset in place of its answer."""
        self._rules.append(Rule(Fault.LOSE_REPLY, times, method, key_contains))

    def cut_body(self, times: int = 1, key_contains: str = "") -> None:
        """The connection ends after half of a GET's answer (of answers that tell their length)."""
        self._rules.append(Rule(Fault.CUT_BODY, times, "GET", key_contains))

    def refuse(self, seconds: float) -> None:
        """Every request of that time, on open connections too, meets a reset."""
        self._refuse_until = time.monotonic() + seconds

    def trouble(self, shares: Mapping[Fault, float], seed: int = 0) -> None:
        """From now on each request meets each of the faults with that probability."""
        self._shares, self._chance = dict(shares), random.Random(seed)

    def no_faults(self) -> None:
        """Forgets the faults that did not happen yet."""
        self._rules.clear()
        self._shares.clear()
        self._refuse_until = self.delay_s = 0.0

    def _in_loop(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=30)

    async def _close(self) -> None:
        self._server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await asyncio.sleep(0)  # closed connections free their sockets in the loop's next round

    def _meets(self, fault: Fault, request: Head) -> bool:
        rule = next((rule for rule in self._rules if rule.matches(fault, request)), None)
        if rule:
            rule.times -= 1
        meets = rule is not None or self._chance.random() < self._shares.get(fault, 0.0)
        if meets:
            self.met.append((fault, request.method, request.target))
        return meets

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One client connection: request after request, until one of the two sides ends it."""
        with suppress(*GONE, asyncio.CancelledError):
            while await self._handle(Head(await reader.readuntil(b"\r\n\r\n")), reader, writer):
                pass
        writer.close()

    async def _handle(self, request: Head, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answers one request; says whether the connection lives on."""
        self.requests.append((request.method, request.target))
        if time.monotonic() < self._refuse_until or self._meets(Fault.RESET, request):
            return reset(writer)
        if self._meets(Fault.SLOW_DOWN, request):
            return await answer_slow_down(request, reader, writer)
        await asyncio.sleep(self.delay_s)
        try:
            return await self._forward(request, reader, writer)
        except GONE:
            return reset(writer)

    async def _forward(self, request: Head, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request over a connection of its own: a store that was restarted leaves no stale ones here."""
        from_store, to_store = await asyncio.open_connection(*self._store)
        sending = asyncio.create_task(send_request(request, reader, to_store))
        try:
            return await self._pass_answer(request, from_store, writer, sending)
        finally:
            sending.cancel()
            to_store.transport.abort()

    async def _pass_answer(
        self, request: Head, from_store: asyncio.StreamReader, writer: asyncio.StreamWriter, sending: asyncio.Task[None]
    ) -> bool:
        answer = await final_answer(from_store, writer)
        without_body = request.method == "HEAD" or answer.status in (204, 304)
        length = 0 if without_body else answer.length(otherwise=UNTIL_END)
        pieces = body_pieces(from_store, length, answer.chunked and not without_body)
        if self._meets(Fault.LOSE_REPLY, request):
            async for _ in pieces:
                pass
            return reset(writer)
        cut = length > 1 and self._meets(Fault.CUT_BODY, request)
        writer.write(answer.raw)
        async for piece in body_pieces(from_store, length // 2, chunked=False) if cut else pieces:
            writer.write(piece)
            await writer.drain()
        # A store may refuse a request before it has read all of its body.
        await asyncio.wait({sending}, timeout=0 if request.waits_for_continue else 1)
        ends_with_connection = length == UNTIL_END and not answer.chunked
        return sending.done() and not (cut or ends_with_connection or answer.closes or request.closes)


async def send_request(request: Head, reader: asyncio.StreamReader, to_store: asyncio.StreamWriter) -> None:
    """Head and body to the store, which sees the connection end if the client's does."""
    try:
        to_store.write(request.raw)
        async for piece in body_pieces(reader, request.length(otherwise=0), request.chunked):
            to_store.write(piece)
            await to_store.drain()
    except GONE:
        to_store.transport.abort()


async def final_answer(from_store: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Head:
    """The head of the store's answer, after passing on each `100 Continue` before it."""
    while (answer := Head(await from_store.readuntil(b"\r\n\r\n"))).status < 200:
        writer.write(answer.raw)
        await writer.drain()
    return answer


async def answer_slow_down(request: Head, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """503, after the whole request was read: a client that still sends would not see it."""
    if request.waits_for_continue:
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    async for _ in body_pieces(reader, request.length(otherwise=0), request.chunked):
        pass
    head = f"HTTP/1.1 503 Slow Down\r\nContent-Type: application/xml\r\nContent-Length: {len(SLOW_DOWN_XML)}\r\n\r\n"
    writer.write(head.encode() + (b"" if request.method == "HEAD" else SLOW_DOWN_XML))
    await writer.drain()
    return True
