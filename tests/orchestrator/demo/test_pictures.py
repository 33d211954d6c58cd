"""The picture set is the same at every rendering, and a broken-off rendering goes on."""

import io
from pathlib import Path

import pytest
from PIL import Image

from orchestrator.demo.pictures import MARKER_FILE, PictureSet, render_pictures
from orchestrator.demo.split import Split

LIMIT = 60


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> PictureSet:
    return render_pictures(tmp_path_factory.mktemp("pictures"), seed=3, emoji_limit=LIMIT, workers=2)


def files_of(pictures: PictureSet) -> dict[str, bytes]:
    return {picture.file: (pictures.folder / picture.file).read_bytes() for picture in pictures.pictures}


def test_two_renderings_are_byte_identical_with_any_number_of_workers(rendered: PictureSet, tmp_path: Path):
    again = render_pictures(tmp_path, seed=3, emoji_limit=LIMIT, workers=1)
    assert again.pictures == rendered.pictures
    assert files_of(again) == files_of(rendered)


def test_the_short_form_has_both_parts(rendered: PictureSet):
    assert len(rendered.of(Split.HELD_OUT)) >= 5
    assert len({picture.emoji for picture in rendered.of(Split.TRAIN)}) >= LIMIT // 2
    assert len({picture.emoji for picture in rendered.of(Split.HELD_OUT)}) == len(rendered.of(Split.HELD_OUT))


def test_each_file_is_a_picture_of_the_format_that_its_name_says(rendered: PictureSet):
    formats = set()
    for name, data in files_of(rendered).items():
        picture = Image.open(io.BytesIO(data))
        picture.load()
        assert picture.format == {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}[name.rpartition(".")[2]]
        assert 64 <= min(picture.size) <= max(picture.size) <= 512
        formats.add(picture.format)
    assert formats == {"JPEG", "PNG", "WEBP"}


def test_a_finished_folder_is_left_as_it_is(rendered: PictureSet):
    before = {path: path.stat().st_mtime_ns for path in rendered.folder.iterdir()}
    calls: list[tuple[int, int]] = []
    render_pictures(rendered.folder, seed=3, emoji_limit=LIMIT, on_progress=lambda *call: calls.append(call))
    assert {path: path.stat().st_mtime_ns for path in rendered.folder.iterdir()} == before
    assert calls == [(len(rendered.pictures), len(rendered.pictures))]


def test_a_rendering_that_was_killed_goes_on(rendered: PictureSet):
    wanted = files_of(rendered)
    (rendered.folder / MARKER_FILE).unlink()
    kept, *lost = wanted
    for name in lost[:10]:
        (rendered.folder / name).unlink()
    written = (rendered.folder / kept).stat().st_mtime_ns
    assert files_of(render_pictures(rendered.folder, seed=3, emoji_limit=LIMIT, workers=1)) == wanted
    assert (rendered.folder / kept).stat().st_mtime_ns == written


def test_another_seed_replaces_the_set(tmp_path: Path):
    first = render_pictures(tmp_path, seed=1, emoji_limit=16, workers=1)
    second = render_pictures(tmp_path, seed=2, emoji_limit=16, workers=1)
    on_disk = {path.name for path in tmp_path.iterdir() if not path.name.startswith(".")}
    assert on_disk == {picture.file for picture in second.pictures}
    assert first.pictures != second.pictures
