"""Scales a JPEG's planes of light and colour as they are stored, without the way to RGB and back."""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from datapipe.resize import Size, smooth

Plane = npt.NDArray[np.uint8]  # (height, width)
NUDGE = 1 + 1e-9  # OpenCV rounds half a pixel to the even side; sizes of planes are rounded up


@dataclass(frozen=True, slots=True)
class StoredPlanes:
    """A decoded JPEG; each pixel of `blue` and `red` (Cb and Cr) covers `across` × `down` pixels of `light` (Y).

    The sizes of the planes of colour are rounded up: the last pixel may be a part of one.
    """

    light: Plane
    blue: Plane
    red: Plane
    across: int
    down: int


@dataclass(frozen=True, slots=True)
class HalvedPlanes:
    """A picture of `size` as it is encoded: planes of colour of half the width and height, rounded up (4:2:0).

    Where a side is odd, the last line of `light` comes twice: without it the encoder would read on in memory.
    """

    size: Size
    light: Plane
    blue: Plane
    red: Plane


def scale_planes(planes: StoredPlanes, size: Size) -> HalvedPlanes:
    """The picture at `size`, to which it shrinks as `is_cubic` allows."""
    shrink = (planes.light.shape[1] / size[0], planes.light.shape[0] / size[1])
    blue, red = (_scaled_colour(plane, planes, shrink) for plane in (planes.blue, planes.red))
    return HalvedPlanes(size, _scaled_light(planes.light, size, shrink), blue, red)


def _scaled_light(light: Plane, size: Size, shrink: tuple[float, float]) -> Plane:
    """The light at `size`, its last lines repeated where that is odd."""
    width, height = size
    result = np.empty((height + height % 2, width + width % 2), dtype=np.uint8)
    result[:height, :width] = cv2.resize(smooth(light, shrink), size, interpolation=cv2.INTER_CUBIC)
    result[:, width:] = result[:, width - 1 : width]
    result[height:] = result[height - 1]
    return result


def _scaled_colour(plane: Plane, planes: StoredPlanes, shrink: tuple[float, float]) -> Plane:
    """A plane of colour at half of the picture's size, by averaging what is not stored so and then interpolating.

    Colours vary slowly: without more smoothing they come out nearer to the exact ones. As they are stored at half the
    size, cubics would sharpen them beyond what other tools make of them (docs/log.md).
    """
    across, down = 2 // planes.across, 2 // planes.down
    method = cv2.INTER_LINEAR
    if (across, down) != (1, 1):
        plane = _even(plane, (across, down))
        half = (plane.shape[1] // across, plane.shape[0] // down)
        plane = np.asarray(cv2.resize(plane, half, interpolation=cv2.INTER_AREA), dtype=np.uint8)
        method = cv2.INTER_CUBIC
    # By the factors and not by the size, which would stretch the part of a pixel at the end to a whole one.
    factors = {"fx": NUDGE / shrink[0], "fy": NUDGE / shrink[1]}
    return np.asarray(cv2.resize(plane, None, **factors, interpolation=method), dtype=np.uint8)


def _even(plane: Plane, steps: tuple[int, int]) -> Plane:
    """The plane with its last lines repeated until the steps, across and down, divide its sides."""
    right, below = -plane.shape[1] % steps[0], -plane.shape[0] % steps[1]
    if not below and not right:
        return plane
    return np.asarray(cv2.copyMakeBorder(plane, 0, below, 0, right, cv2.BORDER_REPLICATE), dtype=np.uint8)
