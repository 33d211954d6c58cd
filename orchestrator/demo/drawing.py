"""Paints one picture as the web would have it: a size, a shape, a background and a file format of its own."""

import io
import random
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from PIL import Image, ImageFont

from orchestrator.demo.emoji_font import draw_emoji

# Weighted towards the small, as pictures in web pages are; the largest cost most of the rendering time.
SIZES = (96, 112, 128, 144, 160, 192, 224, 256, 320, 384, 512)
SIZE_WEIGHTS = (6, 8, 12, 12, 12, 12, 10, 8, 4, 2, 1)
SHAPES = (1.0, 1.0, 1.0, 1.0, 0.75, 1.33, 0.85, 1.2)  # width over height
COLOUR_NAMES = (
    "white|white|white|whitesmoke|lightgrey|lavender|mistyrose|honeydew|lightcyan|lightyellow|peachpuff|thistle|"
    "powderblue|palegreen|wheat|lightsteelblue|plum|khaki|darkseagreen|skyblue|salmon|slategrey"
)
COLOURS = tuple(COLOUR_NAMES.split("|"))


class PictureFormat(StrEnum):
    """The file formats, named by their endings."""

    JPEG = "jpg"
    PNG = "png"
    WEBP = "webp"


@dataclass(frozen=True, slots=True)
class Look:
    """How one picture is made, apart from what it shows. Sizes in pixels."""

    width: int
    height: int
    background: str
    second_background: str | None
    noise: float
    transparent: bool
    scale: float
    shift: tuple[float, float]
    turn: float
    format: PictureFormat
    quality: int
    progressive: bool
    noise_seed: int


def choose_look(choose: random.Random) -> Look:
    """A look by chance."""
    longer = choose.choices(SIZES, SIZE_WEIGHTS)[0]
    shape = choose.choice(SHAPES)
    file_format = choose.choices(list(PictureFormat), (6, 3, 2))[0]
    plain = choose.random() < 0.8
    return Look(
        width=longer if shape >= 1 else round(longer * shape),
        height=longer if shape <= 1 else round(longer / shape),
        background=choose.choice(COLOURS),
        second_background=None if plain else choose.choice(COLOURS),
        noise=choose.choice((0.0, 0.0, 0.0, 0.0, 3.0, 6.0)) if file_format is PictureFormat.JPEG else 0.0,
        transparent=file_format is PictureFormat.PNG and choose.random() < 0.4,
        scale=choose.uniform(0.84, 0.98),
        shift=(choose.uniform(-0.5, 0.5), choose.uniform(-0.5, 0.5)),
        turn=choose.choice((0.0, 0.0, 0.0, choose.uniform(-5, 5))),
        format=file_format,
        quality=choose.choice((70, 80, 85, 90, 95)),
        progressive=choose.random() < 0.3,
        noise_seed=choose.getrandbits(32),
    )


def paint(font: ImageFont.FreeTypeFont, character: str, look: Look) -> bytes:
    """The picture's file."""
    figure = draw_emoji(font, character)
    if look.turn:
        figure = figure.rotate(look.turn, Image.Resampling.BILINEAR, expand=True)
    factor = look.scale * min(look.width / figure.width, look.height / figure.height)
    size = (max(1, round(figure.width * factor)), max(1, round(figure.height * factor)))
    figure = figure.resize(size, Image.Resampling.BILINEAR)
    left = round((look.width - size[0]) * (1 + look.shift[0]) / 2)
    top = round((look.height - size[1]) * (1 + look.shift[1]) / 2)
    if look.transparent:
        picture = Image.new("RGBA", (look.width, look.height), (255, 255, 255, 0))
        picture.paste(figure, (left, top))
    else:
        picture = _background(look)
        picture.paste(figure, (left, top), figure)
    return _encode(picture, look)


def _background(look: Look) -> Image.Image:
    size = (look.width, look.height)
    picture = Image.new("RGB", size, look.background)
    if look.second_background:
        ramp = Image.linear_gradient("L").resize(size)
        picture.paste(Image.new("RGB", size, look.second_background), mask=ramp)
    if look.noise:
        noise = np.random.default_rng(look.noise_seed).normal(0, look.noise, (look.height, look.width, 1))
        pixels = np.asarray(picture, dtype=np.float32) + noise
        picture = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    return picture


def _encode(picture: Image.Image, look: Look) -> bytes:
    file = io.BytesIO()
    match look.format:
        case PictureFormat.JPEG:
            picture.save(file, "JPEG", quality=look.quality, progressive=look.progressive)
        case PictureFormat.PNG:
            if not look.transparent and look.progressive:
                picture = picture.quantize(64, Image.Quantize.FASTOCTREE)
            picture.save(file, "PNG", compress_level=3)
        case PictureFormat.WEBP:
            picture.save(file, "WEBP", quality=look.quality, method=1)
    return file.getvalue()
