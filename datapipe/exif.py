"""Makes a picture's EXIF block into the JSON text of the dataset's `exif` column."""

import contextlib
import json

from PIL import ExifTags, Image

from datapipe.decode import DECODER_ERRORS, read_exif

MAX_TEXT = 100  # characters of one tag's value, as in img2dataset
MAX_TAGS = 200


def exif_json(exif: bytes) -> str:
    """`{"Image Make": "…", "EXIF FNumber": "…"}` as JSON, names as img2dataset has them; `{}` without EXIF."""
    if not exif:
        return "{}"
    tags: dict[str, str] = {}
    with contextlib.suppress(*DECODER_ERRORS):  # what could be read of a damaged block is kept
        _collect(read_exif(exif), tags)
    return json.dumps(dict(sorted(tags.items())[:MAX_TAGS]))


def _collect(exif: Image.Exif, tags: dict[str, str]) -> None:
    _add("Image", exif, ExifTags.TAGS, tags)
    _add("EXIF", exif.get_ifd(ExifTags.IFD.Exif), ExifTags.TAGS, tags)
    _add("GPS", exif.get_ifd(ExifTags.IFD.GPSInfo), ExifTags.GPSTAGS, tags)


def _add(group: str, values: "Image.Exif | dict[int, object]", names: dict[int, str], tags: dict[str, str]) -> None:
    for number, value in values.items():
        if number not in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo) and not isinstance(value, bytes):
            tags[f"{group} {names.get(number, f'0x{number:04X}')}"] = str(value)[:MAX_TEXT]
