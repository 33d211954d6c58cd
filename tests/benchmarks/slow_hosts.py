"""Builds a list from a fast host alone, and again with some rows of a slow and of a dripping host; prints the ratio.

Run it with `python tests/benchmarks/slow_hosts.py`. The slow host answers after 300 ms; the dripping one sends a byte
now and then until the client's time limit. Half of the further rows are of one, half of the other, spread evenly.
Two rates of the fast rows are printed: while they were asked for (from the fast host's first request to its last, in
its own clock), and over the whole command, which waits for the last drip of the last shard too.
"""

import argparse
import asyncio
import json
import multiprocessing
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from build_beside_img2dataset import BIN, DISTINCT, SIZES, make_pictures

HOST = "127.0.0.1"
SLOW_ANSWER_S = 0.3
DRIP_EVERY_S = 0.5
WANTED_RATIO = 0.8


@dataclass
class Asked:
    """A host's requests: how many, and the first's and the last's time (the machine's monotonic clock)."""

    count: int = 0
    first_s: float = 0.0
    last_s: float = 0.0

    def note(self) -> None:
        self.last_s = time.monotonic()
        self.first_s = self.first_s or self.last_s
        self.count += 1


class Host(asyncio.Protocol):
    """Answers each request of a connection as `reply` does, with one of the pictures."""

    def __init__(self, pictures: list[bytes], asked: Asked, reply: Callable[[asyncio.Transport, bytes], None]) -> None:
        self._pictures, self._asked, self._reply = pictures, asked, reply
        self._waiting = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._waiting += data
        while b"\r\n\r\n" in self._waiting:
            request, _, self._waiting = self._waiting.partition(b"\r\n\r\n")
            self._asked.note()
            number = int(request.split(b" ", 2)[1].strip(b"/"))
            self._reply(self._transport, self._pictures[number % len(self._pictures)])


def reply_at_once(transport: asyncio.Transport, picture: bytes) -> None:
    transport.write(b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(picture))
    transport.write(picture)


def reply_late(transport: asyncio.Transport, picture: bytes) -> None:
    asyncio.get_running_loop().call_later(SLOW_ANSWER_S, reply_at_once, transport, picture)


def drip(transport: asyncio.Transport, picture: bytes) -> None:
    transport.write(b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(picture))
    _drip_on(transport)


def _drip_on(transport: asyncio.Transport) -> None:
    if not transport.is_closing():
        transport.write(b"\xff")
        asyncio.get_running_loop().call_later(DRIP_EVERY_S, _drip_on, transport)


def serve(folder: str, replies: list[Callable[[asyncio.Transport, bytes], None]], pipe: Connection) -> None:
    """Serves one port for each reply; sends the ports, then at each word received what was asked since."""
    pictures = [(Path(folder) / f"{number}.jpg").read_bytes() for number in range(DISTINCT)]

    async def run() -> None:
        loop, asked, ports = asyncio.get_running_loop(), [Asked() for _ in replies], []
        for reply, noted in zip(replies, asked, strict=True):
            server = await loop.create_server(lambda r=reply, n=noted: Host(pictures, n, r), HOST, 0, backlog=512)
            ports.append(server.sockets[0].getsockname()[1])
        pipe.send(ports)
        while await loop.run_in_executor(None, pipe.recv) == "report":
            pipe.send([Asked(**vars(noted)) for noted in asked])
            for noted in asked:
                noted.__init__()

    asyncio.run(run())


@contextmanager
def hosts(folder: Path, *replies: Callable[[asyncio.Transport, bytes], None]) -> Iterator[tuple[list[int], Connection]]:
    """A process with a port for each reply, for the length of the block."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.Process(target=serve, args=(str(folder), list(replies), theirs), daemon=True)
    process.start()
    try:
        yield ours.recv(), ours
        ours.send("end")
        process.join(10)
    finally:
        process.kill()


def write_list(path: Path, rows: int, fast: int, slow: tuple[int, ...], share: float) -> int:
    """`rows` rows of the fast port and `share` times as many of the slow ports, spread evenly; returns all rows."""
    urls, due, further = [], 0.0, 0
    for row in range(rows):
        urls.append(f"http://{HOST}:{fast}/{row}")
        due += share
        while due >= 1:
            urls.append(f"http://{HOST}:{slow[further % len(slow)]}/{row}")
            due, further = due - 1, further + 1
    pq.write_table(pa.table({"url": urls, "caption": [f"picture {row}" for row in range(len(urls))]}), path)
    return len(urls)


@dataclass(frozen=True)
class Result:
    """The fast rows' rates of one build, in rows a second."""

    while_asked: float
    whole: float


def build(folder: Path, name: str, rows: int, fast: Connection, arguments: argparse.Namespace) -> Result:
    config = {
        "build": {
            "input": f"{name}.parquet",
            "output": name,
            "number_sample_per_shard": arguments.rows_per_shard,
            "timeout": arguments.timeout,
            "tasks": arguments.tasks,
            "allow_private_addresses": ["127.0.0.0/8"],
        }
    }
    (folder / f"{name}.yaml").write_text(json.dumps(config))
    began = time.monotonic()
    with (folder / "benchmark.log").open("a") as log:
        command = [BIN / "diptych", "build", f"{name}.yaml"]
        if subprocess.run(command, cwd=folder, stdout=log, stderr=log, check=False).returncode:
            sys.exit((folder / "benchmark.log").read_text())
    whole_s = time.monotonic() - began
    fast.send("report")
    asked: Asked = fast.recv()[0]
    counts = Counter(json.loads((folder / name / "dataset.json").read_bytes())["status_counts"])
    result = Result(asked.count / (asked.last_s - asked.first_s), rows / whole_s)
    print(
        f"{name:12} {result.while_asked:7.0f} fast rows/s while they were asked for, {result.whole:6.0f} over "
        f"the whole {whole_s:.0f} s   {dict(counts)}",
        flush=True,
    )
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=20_000, help="rows of the fast host")
    parser.add_argument("--share", type=float, default=0.05, help="rows of the other hosts, as a share of these")
    # Many shards: with few, it is the uneven shares of the tasks that would be measured.
    parser.add_argument("--rows-per-shard", type=int, default=1000)
    parser.add_argument("--timeout", type=float, default=10.0)
    parser.add_argument("--tasks", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_pictures(folder / "web", SIZES["small"])
        with (
            hosts(folder / "web", reply_at_once) as ([fast], pipe),
            hosts(folder / "web", reply_late, drip) as (slow, _),
        ):
            write_list(folder / "undisturbed.parquet", arguments.rows, fast, (), 0)
            write_list(folder / "disturbed.parquet", arguments.rows, fast, tuple(slow), arguments.share)
            before = build(folder, "undisturbed", arguments.rows, pipe, arguments)
            after = build(folder, "disturbed", arguments.rows, pipe, arguments)
    print(
        f"disturbed / undisturbed: {after.while_asked / before.while_asked:.2f} while asked for, "
        f"{after.whole / before.whole:.2f} over the whole command (wanted: {WANTED_RATIO})"
    )


if __name__ == "__main__":
    main()
