"""Renders the labelled picture set into a folder; stopped anywhere and started again, it goes on."""

import hashlib
import json
import multiprocessing
import os
import random
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import astuple, dataclass
from pathlib import Path

import PIL
from PIL import ImageFont

from orchestrator.demo.captions import plain_caption, training_caption
from orchestrator.demo.catalog import Emoji, read_catalog
from orchestrator.demo.drawing import Look, PictureFormat, choose_look, paint
from orchestrator.demo.emoji_font import EmojiFont, load_emoji_font, open_font
from orchestrator.demo.lookalikes import without_lookalikes
from orchestrator.demo.processes import end_with_parent
from orchestrator.demo.split import Split, held_out_characters

PLAN_FILE = ".plan"  # which set the folder is for; written first
MARKER_FILE = ".complete.json"  # every file's size; written last
RENDERS_PER_TRAINING_EMOJI = 2
CHUNK = 64  # pictures a process paints at a time, about a quarter of a second


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture of the set and what is known of it."""

    file: str
    caption: str
    emoji: str
    name: str
    group: str
    split: Split


@dataclass(frozen=True, slots=True)
class PictureSet:
    """A finished set: the pictures' files lie in `folder`."""

    folder: Path
    pictures: tuple[Picture, ...]

    def of(self, split: Split) -> list[Picture]:
        """The pictures of one part."""
        return [picture for picture in self.pictures if picture.split is split]


@dataclass(frozen=True, slots=True)
class _Planned:
    picture: Picture
    look: Look


def render_pictures(
    folder: Path,
    seed: int,
    *,
    emoji_limit: int | None = None,
    workers: int | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> PictureSet:
    """Renders the picture set into `folder` and returns it; what is there already is not made again.

    `emoji_limit` makes a short form of about so many emoji, with both parts of the split in it. `on_progress` is
    called with (pictures done, pictures in all). The bytes depend on the seed, the limit and the installed Pillow.
    """
    catalog, font = _drawable(emoji_limit, seed)
    plan = _plan(catalog, seed)
    pictures = PictureSet(folder, tuple(planned.picture for planned in plan))
    identity = _identity(plan)
    folder.mkdir(parents=True, exist_ok=True)
    if not _is_complete(folder, identity):
        _clear_other_set(folder, identity)
        missing = [planned for planned in plan if not (folder / planned.picture.file).exists()]
        _paint_all(folder, missing, font, len(plan), workers or os.cpu_count() or 1, on_progress)
        sizes = {planned.picture.file: (folder / planned.picture.file).stat().st_size for planned in plan}
        _write(folder / MARKER_FILE, json.dumps({"identity": identity, "sizes": sizes}).encode())
    on_progress(len(plan), len(plan))
    return pictures


def _drawable(emoji_limit: int | None, seed: int) -> tuple[list[Emoji], EmojiFont]:
    catalog = read_catalog()
    if emoji_limit is not None:
        catalog = _short_form(catalog, emoji_limit, seed)
    font = load_emoji_font(emoji.character for emoji in catalog)
    return without_lookalikes(catalog, font), font


def _short_form(catalog: list[Emoji], limit: int, seed: int) -> list[Emoji]:
    """About `limit` emoji: three quarters of them whole families with skin tones, so that some are held out."""
    families = sorted({emoji.activity for emoji in catalog if len(emoji.tones) == 1})
    random.Random(f"families {seed}").shuffle(families)
    others = [emoji for emoji in catalog if emoji.activity not in families and not emoji.tones]
    chosen = random.Random(f"others {seed}").sample(others, min(limit // 4, len(others)))
    for family in families:
        if len(chosen) >= limit:
            break
        chosen += [emoji for emoji in catalog if emoji.activity == family]
    return sorted(chosen, key=lambda emoji: emoji.name)


def _plan(catalog: Sequence[Emoji], seed: int) -> list[_Planned]:
    held_out = held_out_characters(catalog, seed)
    return [planned for emoji in catalog for planned in _renders(emoji, emoji.character in held_out, seed)]


def _renders(emoji: Emoji, is_held_out: bool, seed: int) -> Iterable[_Planned]:
    split = Split.HELD_OUT if is_held_out else Split.TRAIN
    code_points = "-".join(f"{ord(character):x}" for character in emoji.character)
    for render in range(1 if is_held_out else RENDERS_PER_TRAINING_EMOJI):
        choose = random.Random(f"{seed} {code_points} {render}")
        caption = plain_caption(emoji) if is_held_out else training_caption(emoji, choose)
        look = choose_look(choose)
        file = f"{code_points}_{render}.{look.format}"
        yield _Planned(Picture(file, caption, emoji.character, emoji.name, emoji.group, split), look)


def _identity(plan: Sequence[_Planned]) -> str:
    facts = [PIL.__version__, *(repr((astuple(planned.picture), astuple(planned.look))) for planned in plan)]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()


def _is_complete(folder: Path, identity: str) -> bool:
    try:
        marker = json.loads((folder / MARKER_FILE).read_bytes())
    except (FileNotFoundError, ValueError):
        return False
    sizes = {entry.name: entry.stat().st_size for entry in os.scandir(folder)}
    return marker["identity"] == identity and all(sizes.get(file) == size for file, size in marker["sizes"].items())


def _clear_other_set(folder: Path, identity: str) -> None:
    """Removes half-written files and the pictures of another set (another seed, limit or Pillow)."""
    plan_file = folder / PLAN_FILE
    (folder / MARKER_FILE).unlink(missing_ok=True)
    is_same = plan_file.exists() and plan_file.read_text() == identity
    stale = {".partial"} if is_same else {".partial", *(f".{ending}" for ending in PictureFormat)}
    for entry in list(folder.iterdir()):
        if entry.suffix in stale:
            entry.unlink()
    if not is_same:
        _write(plan_file, identity.encode())


def _paint_all(
    folder: Path,
    missing: Sequence[_Planned],
    font: EmojiFont,
    total: int,
    workers: int,
    on_progress: Callable[[int, int], None],
) -> None:
    done = total - len(missing)
    on_progress(done, total)
    chunks = [missing[start : start + CHUNK] for start in range(0, len(missing), CHUNK)]
    if not chunks:
        return
    pool = ProcessPoolExecutor(
        min(workers, len(chunks)),
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start_worker,
        initargs=(os.getpid(), font),
    )
    try:
        for finished in as_completed([pool.submit(_paint_chunk, folder, chunk) for chunk in chunks]):
            done += finished.result()
            on_progress(done, total)
    finally:
        pool.shutdown(cancel_futures=True)


_pen: tuple[ImageFont.FreeTypeFont, dict[str, str]]  # of one worker process; set when it starts


def _start_worker(parent_pid: int, font: EmojiFont) -> None:
    global _pen
    end_with_parent(parent_pid)
    _pen = (open_font(font), font.characters)


def _paint_chunk(folder: Path, chunk: Sequence[_Planned]) -> int:
    font, characters = _pen
    for planned in chunk:
        _write(folder / planned.picture.file, paint(font, characters[planned.picture.emoji], planned.look))
    return len(chunk)


def _write(path: Path, data: bytes) -> None:
    """Writes the file whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_bytes(data)
    partial.replace(path)
