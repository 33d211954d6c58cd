"""How near stored pictures come to an exact resize, beside img2dataset's: PSNR in decibels.

Run it with `python tests/benchmarks/picture_quality.py [FOLDER]`, a folder of JPEG photographs; without one, pictures
are made. The references are float64 antialiased resizes of the fully decoded picture (triangle and cubic), both tools
store at 256 pixels and quality 95.
"""

import argparse
import io
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import torch
from img2dataset.resizer import Resizer
from PIL import Image
from torch.nn.functional import interpolate

from datapipe.config import BuildConfig
from datapipe.image import StoredImage, process_image

SIDE, QUALITY = 256, 95
FILTERS = ("bilinear", "bicubic")


def made_photographs(count: int, size: tuple[int, int], seed: int = 0) -> Iterable[bytes]:
    """JPEGs with the spectrum of photographs: amplitudes fall as 1/frequency (Field 1987, J. Opt. Soc. Am. A 4)."""
    chance = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(size[1])[:, None], np.fft.fftfreq(size[0])[None])
    frequency[0, 0] = np.inf
    for _ in range(count):
        noise = np.fft.fft2(chance.normal(0, 1, (3, size[1], size[0])))
        planes = np.fft.ifft2(noise / frequency).real
        light, *colours = planes / planes.std(axis=(1, 2), keepdims=True)
        pixels = (
            128 + 55 * light[..., None] + 12 * np.stack([colours[0], -colours[0] / 2 + colours[1], -colours[1]], -1)
        )
        stream = io.BytesIO()
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(stream, "JPEG", quality=94)
        yield stream.getvalue()


def reference(body: bytes, size: tuple[int, int], mode: str) -> np.ndarray:
    """The exact picture: (height, width, 3) float64."""
    full = torch.from_numpy(np.asarray(Image.open(io.BytesIO(body)).convert("RGB")).copy()).permute(2, 0, 1)[None]
    exact = interpolate(full.double(), size=(size[1], size[0]), mode=mode, antialias=True, align_corners=False)
    return exact[0].permute(1, 2, 0).clamp(0, 255).numpy()


def psnr(stored: bytes, exact: np.ndarray) -> float:
    pixels = cv2.cvtColor(cv2.imdecode(np.frombuffer(stored, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    return float(10 * np.log10(255**2 / np.mean((pixels - exact) ** 2)))


def measure(bodies: Iterable[bytes]) -> dict[str, dict[str, float]]:
    """Mean PSNR by filter and tool."""
    config = BuildConfig(input="", output="", image_size=SIDE, encode_quality=QUALITY)
    peer = Resizer(SIDE, "keep_ratio", True, encode_quality=QUALITY)
    values: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for body in bodies:
        ours = process_image(body, config)
        theirs, width, height, *_ = peer(io.BytesIO(body))
        assert isinstance(ours, StoredImage) and (ours.width, ours.height) == (width, height)
        for mode in FILTERS:
            exact = reference(body, (width, height), mode)
            values[mode]["diptych"].append(psnr(ours.data, exact))
            values[mode]["img2dataset"].append(psnr(theirs, exact))
    return {mode: {tool: float(np.mean(numbers)) for tool, numbers in tools.items()} for mode, tools in values.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path)
    folder = parser.parse_args().folder
    bodies = (
        [path.read_bytes() for path in sorted(folder.glob("*.jpg"))] if folder else made_photographs(500, (500, 375))
    )
    for mode, tools in measure(bodies).items():
        ours, theirs = tools["diptych"], tools["img2dataset"]
        print(f"{mode:9} diptych {ours:6.2f} dB   img2dataset {theirs:6.2f} dB   difference {ours - theirs:+.2f} dB")


if __name__ == "__main__":
    main()
