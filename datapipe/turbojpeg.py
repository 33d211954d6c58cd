"""Calls the one function of libjpeg-turbo that no Python package offers: decode a JPEG to its planes."""

import ctypes
import ctypes.util
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib import metadata

import numpy as np
import numpy.typing as npt

from datapipe.planes import Plane, StoredPlanes
from infra.errors import MachineError

# Source: turbojpeg.h, whose functions of version 1.4 every later version keeps.
YCBCR, WARNING, STOP_ON_WARNING = 1, 0, 8192
# TJSAMP: 4:4:4, 4:2:2, 4:2:0, 4:4:0. How many pixels of light, across and down, share one of colour.
SUBSAMPLINGS = {0: (1, 1), 1: (2, 1), 2: (2, 2), 4: (1, 2)}
_NEW = {
    "tjInitDecompress": (ctypes.c_void_p, []),
    "tjDestroy": (ctypes.c_int, [ctypes.c_void_p]),
    "tjGetErrorStr2": (ctypes.c_char_p, [ctypes.c_void_p]),
    "tjGetErrorCode": (ctypes.c_int, [ctypes.c_void_p]),
    "tjDecompressHeader3": (
        ctypes.c_int,
        [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_ulong, *[ctypes.POINTER(ctypes.c_int)] * 4],
    ),
    "tjDecompressToYUVPlanes": (
        ctypes.c_int,
        [
            *(ctypes.c_void_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.POINTER(ctypes.c_void_p)),
            *(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_int),
        ],
    ),
}


def decode_planes(body: bytes, size: tuple[int, int], *, strict: bool) -> StoredPlanes | None:
    """The planes of a JPEG whose header says that it has `size`; None where they are no planes of YCbCr that we know.

    Raises ValueError with the library's remark: for what it cannot decode, and with `strict` for damage that it can
    get over.
    """
    library = _library()
    with _decompressor(library) as handle:
        width, height, subsampling, colours = (ctypes.c_int() for _ in range(4))
        facts = (ctypes.byref(value) for value in (width, height, subsampling, colours))
        is_known = library.tjDecompressHeader3(handle, body, len(body), *facts) == 0
        step = SUBSAMPLINGS.get(subsampling.value)
        if not is_known or colours.value != YCBCR or step is None or (width.value, height.value) != size:
            return None
        light, colour = _plane_sizes(size, step)
        light_bytes, colour_bytes = light[0] * light[1], colour[0] * colour[1]
        buffer = np.empty(light_bytes + 2 * colour_bytes, dtype=np.uint8)
        first = buffer.ctypes.data
        places = (ctypes.c_void_p * 3)(first, first + light_bytes, first + light_bytes + colour_bytes)
        flags = STOP_ON_WARNING if strict else 0
        failed = library.tjDecompressToYUVPlanes(handle, body, len(body), places, 0, None, 0, flags) != 0
        if failed and (strict or library.tjGetErrorCode(handle) != WARNING):
            raise ValueError(_remark(library, handle))
    return StoredPlanes(
        _plane(buffer, 0, light)[: size[1], : size[0]],
        _plane(buffer, light_bytes, colour),
        _plane(buffer, light_bytes + colour_bytes, colour),
        *step,
    )


def _plane_sizes(size: tuple[int, int], step: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Width and height of the planes of light and of colour, as the library fills them: whole pixels of colour."""
    colour = (-(-size[0] // step[0]), -(-size[1] // step[1]))
    return (colour[0] * step[0], colour[1] * step[1]), colour


def _plane(buffer: npt.NDArray[np.uint8], first: int, size: tuple[int, int]) -> Plane:
    return buffer[first : first + size[0] * size[1]].reshape(size[1], size[0])


@contextmanager
def _decompressor(library: ctypes.CDLL) -> Iterator[int]:
    handle = library.tjInitDecompress()
    if not handle:
        raise MemoryError
    try:
        yield handle
    finally:
        library.tjDestroy(handle)


def _remark(library: ctypes.CDLL, handle: int) -> str:
    text: bytes = library.tjGetErrorStr2(handle)
    return text.decode("latin-1")


@lru_cache
def _library() -> ctypes.CDLL:
    """The library of the package that diptych depends on; where there is none for the machine, the system's."""
    place = _packaged_library() or ctypes.util.find_library("turbojpeg")
    try:
        if place is None:
            raise OSError("not found")
        library = ctypes.CDLL(place)
        for name, (result, arguments) in _NEW.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as error:
        raise MachineError(
            f"libturbojpeg cannot be used ({error}).",
            "Pictures are decoded with it, so that a dataset's bytes are the same on every machine.",
            "Install the Python package turbojpeg, or the system's libturbojpeg of version 2.0 or later.",
        ) from error
    return library


def _packaged_library() -> str | None:
    try:
        files = metadata.files("turbojpeg") or []
    except metadata.PackageNotFoundError:
        return None
    return next((str(file.locate()) for file in files if file.name.startswith("libturbojpeg")), None)
