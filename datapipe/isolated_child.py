"""The process in which `IsolatedDecoder` decodes: pictures come in, answers go out."""

import contextlib
import json
import sys
from pathlib import Path
from typing import BinaryIO

import cv2

from datapipe.config import BuildConfig
from datapipe.isolation import LENGTH, function_named, picture_to_json


def main() -> None:
    """Serves until its input ends."""
    cv2.setNumThreads(1)
    with contextlib.suppress(OSError):
        # If memory runs out, this process goes and not the one that it works for.
        Path("/proc/self/oom_score_adj").write_text("1000")
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    process_image = function_named(sys.argv[1])
    first = _receive(source)
    if first is None:
        return
    config = BuildConfig(**json.loads(first))
    while (body := _receive(source)) is not None:
        for part in picture_to_json(process_image(body, config)):
            sink.write(LENGTH.pack(len(part)) + part)
        sink.flush()


def _receive(source: BinaryIO) -> bytes | None:
    head = source.read(LENGTH.size)
    return source.read(LENGTH.unpack(head)[0]) if len(head) == LENGTH.size else None


if __name__ == "__main__":
    main()
