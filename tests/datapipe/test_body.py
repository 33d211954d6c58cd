"""Bodies of answers between the network and the decoder."""

import pytest

from datapipe import body as body_module
from datapipe.body import MAX_IN_MEMORY_BYTES, Body, BodyMemory
from infra.errors import OutputError

CHUNK = bytes(range(256)) * 1024  # 256 KiB


def filled(memory: BodyMemory, chunks: int, folder: str | None = None) -> Body:
    body = Body(folder, memory)
    for _ in range(chunks):
        body.append(CHUNK)
    return body


@pytest.mark.parametrize("chunks", [1, 8, 9, 20])
def test_a_body_comes_back_once_and_leaves_no_memory_taken(chunks: int):
    memory = BodyMemory()
    body = filled(memory, chunks)
    assert memory.used_bytes == (chunks * len(CHUNK) if chunks * len(CHUNK) <= MAX_IN_MEMORY_BYTES else 0)
    assert body.take() == CHUNK * chunks
    assert memory.used_bytes == 0 and body.size_bytes == 0 and body.take() == b""


@pytest.mark.parametrize("chunks", [1, 9])
def test_as_much_as_is_wanted_of_a_body_can_be_taken(chunks: int):
    assert filled(BodyMemory(), chunks).take(1000) == CHUNK[:1000]


def test_small_bodies_go_to_disk_when_all_together_have_no_room(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(body_module, "MAX_MEMORY_BYTES", 10 * len(CHUNK))
    memory = BodyMemory()
    bodies = [filled(memory, 3) for _ in range(8)]
    assert memory.used_bytes == 9 * len(CHUNK)
    assert [body.take() for body in bodies] == [CHUNK * 3] * 8
    assert memory.used_bytes == 0


def test_a_scratch_folder_that_is_gone_is_told_as_such(tmp_path):
    with pytest.raises(OutputError, match=r"gone cannot be written"):
        filled(BodyMemory(), 9, str(tmp_path / "gone"))
