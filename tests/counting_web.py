"""A small web of pictures that counts what it is asked for, and takes its time."""

import io
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from PIL import Image


class _QuietServer(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that are killed close their connections; nothing else can go wrong here."""


class CountingWeb:
    """Serves `/N.jpg`, each a picture of its own or the one in `pictures`, after `delay_s`. A `with` block.

    `before_answer` is called with the number and the client's address, and may hold the answer.
    """

    def __init__(self, delay_s: float = 0.0) -> None:
        self.delay_s = delay_s
        self.asked: Counter[int] = Counter()
        self.pictures: dict[int, bytes] = {}
        self.before_answer: Callable[[int, tuple[str, int]], None] = lambda *_: None
        web = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                number = int(self.path.strip("/").removesuffix(".jpg"))
                with web._lock:
                    web.asked[number] += 1
                time.sleep(web.delay_s)
                web.before_answer(number, self.client_address)
                data = web.pictures.get(number) or picture(number)
                self.send_response(200)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                pass

        self._lock = threading.Lock()
        self._server = _QuietServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name="counting-web", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def url(self, number: int) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/{number}.jpg"


def picture(number: int) -> bytes:
    """A JPEG of 300x200 in a colour of its own."""
    stream = io.BytesIO()
    Image.new("RGB", (300, 200), (number % 256, number * 7 % 256, number * 31 % 256)).save(stream, "JPEG")
    return stream.getvalue()
