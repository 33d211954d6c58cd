"""Pictures of four flat quarters in every odd form that Pillow and OpenCV can read, each with its true colours."""

import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image, ImageCms

Colour = tuple[int, int, int]
Colours = tuple[Colour, Colour, Colour, Colour]  # top left, top right, bottom left, bottom right

RED, GREEN, BLUE, WHITE, BLACK = (220, 30, 30), (20, 180, 40), (30, 40, 210), (255, 255, 255), (0, 0, 0)
QUARTERS: Colours = (RED, GREEN, BLUE, WHITE)
GREYS = (20, 90, 160, 255)
AS_GREYS: Colours = tuple((grey, grey, grey) for grey in GREYS)  # type: ignore[assignment]
WIDTH, HEIGHT = 160, 128
EXACT, LOSSY = 1.0, 8.0  # mean absolute error in 8-bit steps: rounding alone, or a coder's
ORIENTATION_TAG = 0x0112
# How a picture is stored so that it is upright once the orientation is applied. Source: EXIF 2.32, 4.6.4 A.
STORED_AS = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@dataclass(frozen=True, slots=True)
class Odd:
    """An encoded picture and what it shows."""

    body: bytes
    colours: Colours = QUARTERS
    tolerance: float = EXACT


def quarters(colours: Colours = QUARTERS) -> Image.Image:
    """A picture of four quarters, wider than high, so that a turn, a flip or a swap of channels shows."""
    picture = Image.new("RGB", (WIDTH, HEIGHT))
    for number, colour in enumerate(colours):
        left, top = number % 2 * WIDTH // 2, number // 2 * HEIGHT // 2
        picture.paste(colour, (left, top, left + WIDTH // 2, top + HEIGHT // 2))
    return picture


def saved(picture: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def grey() -> Image.Image:
    return quarters(AS_GREYS).convert("L")


def see_through(picture: Image.Image, alpha: int = 0) -> Image.Image:
    """With a first quarter that shows what is behind it."""
    picture = picture.convert("LA" if picture.mode == "L" else "RGBA")
    mask = Image.new("L", picture.size, 255)
    mask.paste(alpha, (0, 0, WIDTH // 2, HEIGHT // 2))
    picture.putalpha(mask)
    return picture


def by_opencv(ending: str, pixels: np.ndarray, *options: int) -> bytes:
    """RGB or grey pixels, 8 or 16 bits, encoded by OpenCV."""
    bgr = {2: lambda p: p, 3: lambda p: p[..., ::-1]}[pixels.ndim](pixels)
    if pixels.ndim == 3 and pixels.shape[2] == 4:
        bgr = pixels[..., [2, 1, 0, 3]]
    done, data = cv2.imencode(ending, np.ascontiguousarray(bgr), options)
    assert done
    return data.tobytes()


def sixteen(picture: Image.Image) -> np.ndarray:
    """The pixels in 16 bits: 255 becomes 65,535."""
    return np.asarray(picture).astype(np.uint16) * 257


def oriented(kind: str, orientation: int, **options: object) -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = orientation
    transpose = STORED_AS.get(orientation)
    picture = quarters() if transpose is None else quarters().transpose(transpose)
    return saved(picture, kind, exif=exif, **options)


def inks(*, has_black: bool) -> Image.Image:
    """The quarters in CMYK, with black ink for what all colours share or without."""
    rgb = np.asarray(quarters()).astype(float)
    black = 255 - rgb.max(axis=2, keepdims=True) if has_black else np.zeros((HEIGHT, WIDTH, 1))
    light = np.maximum(255 - black, 1)
    cmyk = np.concatenate([(255 - rgb - black) / light * 255, black], axis=2)
    return Image.fromarray(cmyk.round().astype(np.uint8), "CMYK")


def inverted(picture: Image.Image) -> Image.Image:
    return Image.frombytes(picture.mode, picture.size, (255 - np.asarray(picture)).tobytes())


def segment_at(jpeg: bytes, marker: int) -> slice:
    place = jpeg.index(bytes([0xFF, marker]))
    return slice(place, place + 2 + int.from_bytes(jpeg[place + 2 : place + 4], "big"))


def cmyk_without_adobe() -> bytes:
    """Inverted inks without the marker that says so: browsers take all CMYK in JPEG as inverted."""
    jpeg = saved(inks(has_black=True), "JPEG", quality=98)
    adobe = segment_at(jpeg, 0xEE)
    return jpeg[: adobe.start] + jpeg[adobe.stop :]


def ycck() -> bytes:
    """Adobe's YCCK: luma and chroma of the complement of the (inverted) inks, and black."""
    stored = 255 - np.asarray(inks(has_black=True))
    ycc = np.asarray(Image.fromarray(255 - stored[..., :3]).convert("YCbCr"))
    channels = np.concatenate([ycc, stored[..., 3:]], axis=2)
    jpeg = saved(inverted(Image.fromarray(channels, "CMYK")), "JPEG", quality=98, subsampling=0)
    last = segment_at(jpeg, 0xEE).stop - 1
    assert jpeg[last] == 0
    return jpeg[:last] + b"\x02" + jpeg[last + 1 :]


def swapped_profile() -> bytes:
    """A profile in which red is green and green is red: unlike any other, its use shows."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return profile.replace(b"rXYZ", b"?XYZ").replace(b"gXYZ", b"rXYZ").replace(b"?XYZ", b"gXYZ")


SWAPPED: Colours = tuple((g, r, b) for r, g, b in QUARTERS)  # type: ignore[assignment]


def tiff(entries: dict[int, tuple[int, ...]], data: bytes, order: str) -> bytes:
    """An uncompressed TIFF; tag values of two bytes become SHORT, others LONG. `data` lies at offset 8."""
    head = struct.pack(f"{order}2sHI", b"II" if order == "<" else b"MM", 42, 8 + len(data))
    folder, extra, after = b"", b"", 8 + len(data) + 2 + 12 * len(entries) + 4
    for tag, values in sorted(entries.items()):
        code, letter = (3, "H") if tag not in (273, 324) else (4, "I")
        packed = struct.pack(f"{order}{len(values)}{letter}", *values)
        if len(packed) > 4:
            place, extra = after + len(extra), extra + packed
            packed = struct.pack(f"{order}I", place)
        folder += struct.pack(f"{order}HHI", tag, code, len(values)) + packed.ljust(4, b"\0")
    return head + data + struct.pack(f"{order}H", len(entries)) + folder + b"\0" * 4 + extra


def tiled_tiff(order: str = "<") -> bytes:
    side, pixels = 64, np.asarray(quarters())
    tiles = []
    for top in range(0, HEIGHT, side):
        for left in range(0, WIDTH, side):
            tile = np.zeros((side, side, 3), np.uint8)
            part = pixels[top : top + side, left : left + side]
            tile[: part.shape[0], : part.shape[1]] = part
            tiles.append(tile.tobytes())
    size = side * side * 3
    tags = {256: (WIDTH,), 257: (HEIGHT,), 258: (8, 8, 8), 259: (1,), 262: (2,), 277: (3,), 322: (side,), 323: (side,)}
    tags |= {324: tuple(8 + number * size for number in range(len(tiles))), 325: (size,) * len(tiles)}
    return tiff(tags, b"".join(tiles), order)


def planar_tiff() -> bytes:
    """Red, green and blue one after the other."""
    planes, size = np.asarray(quarters()).transpose(2, 0, 1).tobytes(), WIDTH * HEIGHT
    tags = {256: (WIDTH,), 257: (HEIGHT,), 258: (8, 8, 8), 259: (1,), 262: (2,), 277: (3,), 278: (HEIGHT,), 284: (2,)}
    return tiff(tags | {273: (8, 8 + size, 8 + 2 * size), 279: (size,) * 3}, planes, "<")


def white_is_zero_tiff() -> bytes:
    tags = {256: (WIDTH,), 257: (HEIGHT,), 258: (8,), 259: (1,), 262: (0,), 277: (1,), 278: (HEIGHT,), 273: (8,)}
    return tiff(tags | {279: (WIDTH * HEIGHT,)}, (255 - np.asarray(grey())).tobytes(), "<")


def top_down_bmp() -> bytes:
    bmp = saved(quarters().transpose(Image.Transpose.FLIP_TOP_BOTTOM), "BMP")
    return bmp[:22] + struct.pack("<i", -HEIGHT) + bmp[26:]


def bmp_of_565() -> bytes:
    pixels = np.asarray(quarters()).astype(np.uint16)[::-1]
    data = ((pixels[..., 0] >> 3 << 11) | (pixels[..., 1] >> 2 << 5) | (pixels[..., 2] >> 3)).astype("<u2").tobytes()
    masks = struct.pack("<III", 0xF800, 0x07E0, 0x001F)
    info = struct.pack("<IiiHHIIiiII", 40, WIDTH, HEIGHT, 1, 16, 3, len(data), 2835, 2835, 0, 0)
    return struct.pack("<2sIHHI", b"BM", 66 + len(data), 0, 0, 66) + info + masks + data


def ascii_ppm() -> bytes:
    numbers = " ".join(map(str, np.asarray(quarters()).ravel()))
    return f"P3\n# a remark\n{WIDTH} {HEIGHT}\n255\n{numbers}\n".encode()


def animated(kind: str, **options: object) -> bytes:
    others = [Image.new("RGB", (WIDTH, HEIGHT), colour) for colour in ("black", "yellow")]
    return saved(quarters(), kind, save_all=True, append_images=others, duration=100, **options)


def png_of(rows: np.ndarray, depth: int, colour_type: int, *more: tuple[bytes, bytes]) -> bytes:
    """A PNG of packed rows (one row of bytes each), of a kind that neither library writes.

    Source: https://www.w3.org/TR/png-3/#11Chunks
    """
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, depth, colour_type, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    parts = [(b"IHDR", header), *more, (b"IDAT", pixels), (b"IEND", b"")]
    chunks = (struct.pack(">I", len(data)) + name + data + crc(name + data) for name, data in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def crc(data: bytes) -> bytes:
    return struct.pack(">I", zlib.crc32(data))


def packed_greys(depth: int) -> np.ndarray:
    """Rows of AS_FEW_GREYS in 2 or 4 bits a pixel."""
    values = np.asarray(quarters(AS_FEW_GREYS).convert("L")) >> (8 - depth)
    bits = np.unpackbits(values[..., None], axis=2)[..., 8 - depth :]
    return np.packbits(bits.reshape(HEIGHT, -1), axis=1)


def gif_with_small_frame() -> bytes:
    """The right half alone; the screen is wider."""
    body = bytearray(saved(quarters().crop((WIDTH // 2, 0, WIDTH, HEIGHT)).quantize(2), "GIF"))
    body[6:8] = struct.pack("<H", WIDTH)
    place = body.index(b"," + struct.pack("<HHHH", 0, 0, WIDTH // 2, HEIGHT))
    body[place + 1 : place + 3] = struct.pack("<H", WIDTH // 2)
    return bytes(body)


def with_colour_key() -> bytes:
    """A PNG without alpha that names one colour as transparent."""
    return saved(quarters(), "PNG", transparency=RED)


def palette_with_transparency() -> bytes:
    picture = quarters().quantize(4)
    return saved(picture, "PNG", transparency=picture.getpixel((2, 2)))


def palette_with_half_transparency() -> bytes:
    picture = quarters().quantize(4)
    alphas = bytearray(b"\xff" * 4)
    alphas[picture.getpixel((2, 2))] = 128
    return saved(picture, "PNG", transparency=bytes(alphas))


SEEN_THROUGH: Colours = (WHITE, GREEN, BLUE, WHITE)
HALF_SEEN: Colours = (tuple(round(127 / 255 * 255 + 128 / 255 * c) for c in RED), GREEN, BLUE, WHITE)  # type: ignore[assignment]
GREY_SEEN_THROUGH: Colours = (WHITE, *AS_GREYS[1:])
AS_FEW_GREYS: Colours = ((0,) * 3, (85,) * 3, (170,) * 3, (255,) * 3)  # type: ignore[assignment]
RIGHT_HALF: Colours = (WHITE, GREEN, WHITE, WHITE)
BLACK_AND_WHITE: Colours = (BLACK, WHITE, WHITE, BLACK)
JPEG_SAMPLING, JPEG_RESTARTS = cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_RST_INTERVAL


def jpegs() -> dict[str, Odd]:
    bit = {"quality": 97}
    pixels = np.asarray(quarters())
    bodies = {
        "JPEG 4:4:4": saved(quarters(), "JPEG", subsampling=0, **bit),
        "JPEG 4:2:2": saved(quarters(), "JPEG", subsampling=1, **bit),
        "JPEG 4:2:0": saved(quarters(), "JPEG", subsampling=2, **bit),
        "JPEG 4:1:1": by_opencv(".jpg", pixels, JPEG_SAMPLING, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_411),
        "JPEG 4:4:0": by_opencv(".jpg", pixels, JPEG_SAMPLING, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_440),
        "JPEG progressive": saved(quarters(), "JPEG", progressive=True, **bit),
        "JPEG with restart markers": by_opencv(".jpg", pixels, JPEG_RESTARTS, 2),
        "JPEG in RGB": saved(quarters(), "JPEG", keep_rgb=True, **bit),
        "JPEG of several pictures": saved(
            quarters(), "MPO", save_all=True, append_images=[Image.new("RGB", (WIDTH, HEIGHT))], **bit
        ),
        "JPEG CMYK, Adobe's inverted": saved(inks(has_black=False), "JPEG", **bit),
        "JPEG CMYK with black, inverted": saved(inks(has_black=True), "JPEG", **bit),
        "JPEG CMYK without Adobe": cmyk_without_adobe(),
        "JPEG YCCK": ycck(),
        "JPEG then ZIP": saved(quarters(), "JPEG", **bit) + b"PK\x03\x04" + bytes(999),
        "JPEG then HTML": saved(quarters(), "JPEG", **bit) + b"<html><script>alert(1)</script></html>",
        "JPEG with HTML in a comment": saved(quarters(), "JPEG", comment=b"<html><script>", **bit),
        "JPEG with other profile": saved(quarters(), "JPEG", icc_profile=swapped_profile(), **bit),
        "JPEG with damaged profile": saved(quarters(), "JPEG", icc_profile=b"no profile" * 99, **bit),
        "JPEG with damaged EXIF": saved(quarters(), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff" + bytes(99), **bit),
        "JPEG, orientation 9": oriented("JPEG", 9, quality=97),
    }
    greys = {
        "JPEG grey": saved(grey(), "JPEG", **bit),
        "JPEG grey progressive": saved(grey(), "JPEG", progressive=True, **bit),
    }
    return {name: Odd(body, QUARTERS, LOSSY) for name, body in bodies.items()} | {
        name: Odd(body, AS_GREYS, LOSSY) for name, body in greys.items()
    }


def pngs() -> dict[str, Odd]:
    return {
        "PNG": Odd(saved(quarters(), "PNG")),
        "PNG grey": Odd(saved(grey(), "PNG"), AS_GREYS),
        "PNG grey and alpha": Odd(saved(see_through(grey()), "PNG"), GREY_SEEN_THROUGH),
        "PNG RGBA": Odd(saved(see_through(quarters()), "PNG"), SEEN_THROUGH),
        "PNG RGBA half": Odd(saved(see_through(quarters(), 128), "PNG"), HALF_SEEN),
        "PNG with colour key": Odd(with_colour_key(), SEEN_THROUGH),
        "PNG grey with key": Odd(saved(grey(), "PNG", transparency=GREYS[0]), GREY_SEEN_THROUGH),
        "PNG palette": Odd(saved(quarters().quantize(4), "PNG")),
        "PNG palette of 8 bits": Odd(saved(quarters().quantize(200), "PNG", bits=8)),
        "PNG palette with transparency": Odd(palette_with_transparency(), SEEN_THROUGH),
        "PNG palette half transparent": Odd(palette_with_half_transparency(), HALF_SEEN),
        "PNG of 1 bit": Odd(saved(quarters(BLACK_AND_WHITE).convert("1"), "PNG"), BLACK_AND_WHITE),
        "PNG of 16 bits, grey": Odd(by_opencv(".png", sixteen(grey())), AS_GREYS),
        "PNG of 16 bits, RGB": Odd(by_opencv(".png", sixteen(quarters()))),
        "PNG of 16 bits, RGBA": Odd(by_opencv(".png", sixteen(see_through(quarters()))), SEEN_THROUGH),
        "PNG of 16 bits, grey and alpha": Odd(
            png_of(sixteen(see_through(grey())).astype(">u2").reshape(HEIGHT, -1), 16, 4), GREY_SEEN_THROUGH
        ),
        "PNG of 16 bits, with colour key": Odd(
            png_of(
                sixteen(quarters()).astype(">u2").reshape(HEIGHT, -1),
                16,
                2,
                (b"tRNS", struct.pack(">HHH", *(257 * value for value in RED))),
            ),
            SEEN_THROUGH,
        ),
        "PNG of 16 bits, grey with key": Odd(
            png_of(sixteen(grey()).astype(">u2"), 16, 0, (b"tRNS", struct.pack(">H", 257 * GREYS[0]))),
            GREY_SEEN_THROUGH,
        ),
        "PNG of 2 bits, grey": Odd(png_of(packed_greys(2), 2, 0), AS_FEW_GREYS),
        "PNG of 4 bits, grey": Odd(png_of(packed_greys(4), 4, 0), AS_FEW_GREYS),
        "PNG animated": Odd(animated("PNG")),
        "PNG animated, first is default": Odd(animated("PNG", default_image=True)),
        "PNG with other profile": Odd(saved(quarters(), "PNG", icc_profile=swapped_profile())),
    }


def other_formats() -> dict[str, Odd]:
    clear = see_through(quarters())
    return {
        "GIF": Odd(saved(quarters(), "GIF")),
        "GIF grey": Odd(saved(grey(), "GIF"), AS_GREYS),
        "GIF with transparency": Odd(saved(clear, "GIF"), SEEN_THROUGH),
        "GIF interlaced": Odd(saved(quarters(), "GIF", interlace=1)),
        "GIF with a small frame": Odd(gif_with_small_frame(), RIGHT_HALF),
        "GIF animated": Odd(animated("GIF")),
        "WebP": Odd(saved(quarters(), "WEBP", quality=95), QUARTERS, LOSSY),
        "WebP lossless": Odd(saved(quarters(), "WEBP", lossless=True)),
        "WebP lossless with alpha": Odd(saved(clear, "WEBP", lossless=True), SEEN_THROUGH),
        "WebP with alpha": Odd(saved(clear, "WEBP", quality=95), SEEN_THROUGH, LOSSY),
        "WebP animated": Odd(animated("WEBP", lossless=True)),
        "WebP with other profile": Odd(saved(quarters(), "WEBP", lossless=True, icc_profile=swapped_profile())),
        "AVIF": Odd(saved(quarters(), "AVIF", quality=95), QUARTERS, LOSSY),
        "AVIF 4:4:4": Odd(saved(quarters(), "AVIF", quality=95, subsampling="4:4:4"), QUARTERS, LOSSY),
        "AVIF with alpha": Odd(saved(clear, "AVIF", quality=95), SEEN_THROUGH, LOSSY),
        "AVIF animated": Odd(animated("AVIF", quality=95), QUARTERS, LOSSY),
        "JPEG 2000": Odd(saved(quarters(), "JPEG2000")),
        "JPEG 2000 lossy": Odd(
            saved(quarters(), "JPEG2000", irreversible=True, quality_mode="dB", quality_layers=[45]), QUARTERS, LOSSY
        ),
        "JPEG 2000 codestream": Odd(saved(quarters(), "JPEG2000", no_jp2=True)),
        "JPEG 2000 grey": Odd(saved(grey(), "JPEG2000"), AS_GREYS),
        "JPEG 2000 with alpha": Odd(saved(clear, "JPEG2000"), SEEN_THROUGH),
        "JPEG 2000 of 16 bits, grey": Odd(by_opencv(".jp2", sixteen(grey())), AS_GREYS, LOSSY),
        "JPEG 2000 of 16 bits, RGB": Odd(by_opencv(".jp2", sixteen(quarters())), QUARTERS, LOSSY),
        "JPEG 2000 of 16 bits, RGBA": Odd(by_opencv(".jp2", sixteen(see_through(quarters()))), SEEN_THROUGH, LOSSY),
        "BMP": Odd(saved(quarters(), "BMP")),
        "BMP palette": Odd(saved(quarters().quantize(4), "BMP")),
        "BMP of 1 bit": Odd(saved(quarters(BLACK_AND_WHITE).convert("1"), "BMP"), BLACK_AND_WHITE),
        "BMP of 32 bits": Odd(saved(quarters().convert("RGBA"), "BMP")),
        "BMP of 5, 6 and 5 bits": Odd(bmp_of_565(), QUARTERS, LOSSY),
        "BMP from the top down": Odd(top_down_bmp()),
        "ICO": Odd(saved(quarters(), "ICO", sizes=[(WIDTH, HEIGHT)])),
        "ICO of BMP": Odd(saved(quarters(), "ICO", sizes=[(WIDTH, HEIGHT)], bitmap_format="bmp")),
        "ICO with alpha": Odd(saved(clear, "ICO", sizes=[(WIDTH, HEIGHT)]), SEEN_THROUGH),
        "PPM": Odd(saved(quarters(), "PPM")),
        "PPM in letters": Odd(ascii_ppm()),
        "PGM": Odd(saved(grey(), "PPM"), AS_GREYS),
        "PGM of 16 bits": Odd(by_opencv(".pgm", sixteen(grey())), AS_GREYS),
        "PPM of 16 bits": Odd(by_opencv(".ppm", sixteen(quarters()))),
        "PBM": Odd(saved(quarters(BLACK_AND_WHITE).convert("1"), "PPM"), BLACK_AND_WHITE),
    }


def tiffs() -> dict[str, Odd]:
    compressions = ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "zstd", "lzma")
    odd = {f"TIFF, {name}": Odd(saved(quarters(), "TIFF", compression=name)) for name in compressions}
    bits = quarters(BLACK_AND_WHITE).convert("1")
    return odd | {
        "TIFF, JPEG": Odd(saved(quarters(), "TIFF", compression="jpeg", quality=97), QUARTERS, LOSSY),
        "TIFF tiled": Odd(tiled_tiff()),
        "TIFF tiled, big-endian": Odd(tiled_tiff(">")),
        "TIFF in planes": Odd(planar_tiff()),
        "TIFF, white is zero": Odd(white_is_zero_tiff(), AS_GREYS),
        "TIFF of 1 bit": Odd(saved(bits, "TIFF", compression="group4"), BLACK_AND_WHITE),
        "TIFF palette": Odd(saved(quarters().quantize(4), "TIFF")),
        "TIFF RGBA": Odd(saved(see_through(quarters()), "TIFF"), SEEN_THROUGH),
        "TIFF grey and alpha": Odd(saved(see_through(grey()), "TIFF"), GREY_SEEN_THROUGH),
        "TIFF CMYK": Odd(saved(inks(has_black=True), "TIFF")),
        "TIFF of 16 bits, grey": Odd(by_opencv(".tiff", sixteen(grey())), AS_GREYS),
        "TIFF of 16 bits, RGB": Odd(by_opencv(".tiff", sixteen(quarters()))),
        "TIFF of 16 bits, RGBA": Odd(by_opencv(".tiff", sixteen(see_through(quarters()))), SEEN_THROUGH),
        "TIFF of several pages": Odd(
            saved(quarters(), "TIFF", save_all=True, append_images=[Image.new("RGB", (9, 9))])
        ),
    }


def turned() -> dict[str, Odd]:
    kinds: dict[str, dict[str, object]] = {
        "JPEG": {"quality": 97},
        "PNG": {},
        "WEBP": {"lossless": True},
        "TIFF": {},
        "AVIF": {"quality": 95},
    }
    return {
        f"{kind}, orientation {orientation}": Odd(
            oriented(kind, orientation, **options), QUARTERS, LOSSY if kind in ("JPEG", "AVIF") else EXACT
        )
        for kind, options in kinds.items()
        for orientation in STORED_AS
    }


FAMILIES: tuple[Callable[[], dict[str, Odd]], ...] = (jpegs, pngs, other_formats, tiffs, turned)
ODD_PICTURES: dict[str, Odd] = {name: odd for family in FAMILIES for name, odd in family().items()}
