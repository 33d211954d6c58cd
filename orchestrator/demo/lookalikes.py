"""Leaves out emoji whose drawing cannot be told from another's, so that every picture has one right caption."""

import io
from collections import defaultdict
from collections.abc import Iterable

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from orchestrator.demo.catalog import Emoji
from orchestrator.demo.emoji_font import EM_HEIGHT, EM_WIDTH, EmojiFont

COMPARE_SIZE = 48  # pixels per em
# Mean difference in grey levels (of 255). In OpenMoji 17 a person drawn as the man is below 0.13, and the most
# alike drawings that differ to the eye (a rower with and without a ponytail) are above 0.6.
ALIKE_BELOW = 0.3
# Territories that fly their country's flag; the country's name stays.
UNDER_ANOTHER_FLAG = {
    "Ceuta_&_Melilla",
    "Clipperton_Island",
    "Heard_Island_&_McDonald_Islands",
    "St._Martin",
    "Svalbard_&_Jan_Mayen",
}


def without_lookalikes(catalog: Iterable[Emoji], font: EmojiFont) -> list[Emoji]:
    """The emoji that the font draws, in their order, less those drawn like one before.

    Of variants by gender the more definite one stays (man or woman, before person). Drawings of one activity in
    one skin tone are compared with tolerance, all others (flags, say) for equality.
    """
    pen = ImageFont.truetype(io.BytesIO(font.data), COMPARE_SIZE, layout_engine=ImageFont.Layout.BASIC)
    drawn = [emoji for emoji in catalog if emoji.character in font.characters]
    seen: set[bytes] = set()
    relatives: dict[tuple[str, tuple[str, ...]], list[np.ndarray]] = defaultdict(list)
    kept: set[str] = set()
    for emoji in sorted(drawn, key=_is_less_definite):
        pixels = _small_drawing(pen, font.characters[emoji.character])
        others = relatives[emoji.activity, emoji.tones]
        alike = any(np.abs(pixels - other).mean() < ALIKE_BELOW for other in others)
        if not alike and pixels.tobytes() not in seen:
            kept.add(emoji.character)
            others.append(pixels)
            seen.add(pixels.tobytes())
    return [emoji for emoji in drawn if emoji.character in kept]


def _is_less_definite(emoji: Emoji) -> bool:
    return emoji.gender in ("person", "people") or emoji.name in UNDER_ANOTHER_FLAG


def _small_drawing(pen: ImageFont.FreeTypeFont, character: str) -> np.ndarray:
    canvas = Image.new("RGB", (round(EM_WIDTH * COMPARE_SIZE), round(EM_HEIGHT * COMPARE_SIZE)), "white")
    ImageDraw.Draw(canvas).text((0, 0), character, font=pen, embedded_color=True)
    return np.asarray(canvas, dtype=np.int16)
