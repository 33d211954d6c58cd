"""Decodes pictures in a child process, so that one that crashes its decoder costs only itself."""

import json
import select
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from importlib import import_module
from types import TracebackType

from datapipe.addresses import Refusal
from datapipe.config import BuildConfig
from datapipe.image import StoredImage, process_image
from datapipe.status import SampleStatus
from infra.open_files import is_shortage, shortage

DECODE_TIMEOUT_S = 60.0
CRASHED = Refusal(SampleStatus.DECODER_CRASH, "the decoder crashed on the picture, or found no end")
LENGTH = struct.Struct(">Q")

ProcessImage = Callable[[bytes, BuildConfig], StoredImage | Refusal]


def function_named(name: str) -> ProcessImage:
    """The function `module:function`."""
    module, _, attribute = name.partition(":")
    function: ProcessImage = getattr(import_module(module), attribute)
    return function


def name_of(function: ProcessImage) -> str:
    """The name under which `function_named` finds it."""
    return f"{function.__module__}:{function.__qualname__}"


class IsolatedDecoder:
    """Runs `process_image` (or another one of its kind) in a child process, and starts a new one after a crash.

    Nothing that the child sends is unpickled: it has read hostile bytes.
    """

    def __init__(self, config: BuildConfig, function: ProcessImage = process_image) -> None:
        self._config = config
        self._function = function
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "IsolatedDecoder":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def process(self, body: bytes) -> StoredImage | Refusal:
        """What `process_image` gives; DECODER_CRASH when its process dies or takes too long.

        Raises MachineError when this machine lacks what a process needs.
        """
        is_new, child = self._child is None, self._child or self._start()
        try:
            if is_new:
                _send(child, json.dumps(self._config.model_dump()).encode())
            _send(child, body)
            meta = json.loads(_receive(child))
            data = _receive(child)
        except (OSError, EOFError):
            self._stop()
            return CRASHED
        if "status" in meta:
            return Refusal(SampleStatus(meta["status"]), str(meta["message"]))
        return StoredImage(data=data, **meta)

    def _start(self) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "datapipe.isolated_child", name_of(self._function)]
        try:
            self._child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        except OSError as error:
            if is_shortage(error):
                raise shortage(error) from error
            raise
        return self._child

    def _stop(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child.communicate()
            self._child = None


def picture_to_json(result: StoredImage | Refusal) -> tuple[bytes, bytes]:
    """The child's answer: what is known of the picture, and its bytes."""
    if isinstance(result, Refusal):
        return json.dumps({"status": result.status.value, "message": result.message}).encode(), b""
    meta = asdict(result)
    data: bytes = meta.pop("data")
    return json.dumps(meta).encode(), data


def _send(child: "subprocess.Popen[bytes]", data: bytes) -> None:
    assert child.stdin is not None
    child.stdin.write(LENGTH.pack(len(data)) + data)
    child.stdin.flush()


def _receive(child: "subprocess.Popen[bytes]") -> bytes:
    assert child.stdout is not None
    (length,) = LENGTH.unpack(_read(child, LENGTH.size))
    return _read(child, length)


def _read(child: "subprocess.Popen[bytes]", length: int) -> bytes:
    """Raises EOFError when the child has ended, TimeoutError when it says nothing for too long."""
    assert child.stdout is not None
    data = b""
    readable = select.poll()  # `select.select` knows no descriptor above 1023
    readable.register(child.stdout, select.POLLIN)
    while len(data) < length:
        if not readable.poll(DECODE_TIMEOUT_S * 1000):
            raise TimeoutError
        part = child.stdout.read1(length - len(data))  # type: ignore[attr-defined]
        if not part:
            raise EOFError
        data += part
    return data
