"""The tar writer against tarfile: the same bytes for any files."""

import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datapipe.tar import TarWriter

FILES = st.lists(st.tuples(st.from_regex(r"[0-9a-z._-]{1,100}", fullmatch=True), st.binary(max_size=1600)), max_size=12)


def by_tarfile(files: list[tuple[str, bytes]]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in files:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return stream.getvalue()


@given(FILES)
def test_the_archive_is_the_one_that_tarfile_writes_and_offsets_lead_to_the_files(files: list[tuple[str, bytes]]):
    stream = io.BytesIO()
    tar = TarWriter(stream)
    offsets = [tar.add(name, data) for name, data in files]
    tar.close()
    assert stream.getvalue() == by_tarfile(files)
    for offset, (_, data) in zip(offsets, files, strict=True):
        assert stream.getvalue()[offset : offset + len(data)] == data


def test_what_ustar_cannot_hold_is_refused():
    with pytest.raises(ValueError, match="100 bytes"):
        TarWriter(io.BytesIO()).add("n" * 101, b"")
