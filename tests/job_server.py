"""Speaks the job interface of a Ray dashboard without a cluster: it takes each name once, and runs nothing."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

import ray


class JobServer:
    """Keeps jobs in `status` (PENDING, FAILED, …) by name, in the order of their submission. A `with` block."""

    def __init__(self) -> None:
        self.status: dict[str, str] = {}
        lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                kind, name = self.path.split("/")[2], self.path.rstrip("/").rpartition("/")[2]
                if kind == "version":
                    self._answer(200, {"version": "4", "ray_version": ray.__version__, "ray_commit": ""})
                elif kind == "packages":
                    self._answer(200, {})
                elif name in server.status:
                    job = {"type": "SUBMISSION", "entrypoint": "", "submission_id": name, "status": server.status[name]}
                    self._answer(200, job)
                else:
                    self._answer(404, {})

            def do_POST(self) -> None:
                name = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["submission_id"]
                with lock:
                    is_new = name not in server.status
                    server.status.setdefault(name, "PENDING")
                self._answer(200 if is_new else 500, {"job_id": name, "submission_id": name})

            def _answer(self, code: int, value: dict[str, Any]) -> None:
                data = json.dumps(value).encode()
                self.send_response(code)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, name="job-server", daemon=True)

    @property
    def url(self) -> str:
        """The address for `--address`."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
