"""The `build` section of the config. Names are img2dataset's where it has one."""

import ipaddress
from enum import StrEnum
from typing import Annotated

from pydantic import Field, ValidationInfo, field_validator

from infra.settings import Place, Settings

MAX_PNG_COMPRESSION = 9
MAX_IMAGE_PIXELS = 100_000_000  # of what is stored: training, evaluation and annotation decode no larger ones


class OutputFormat(StrEnum):
    """How a shard holds its images."""

    WEBDATASET = "webdataset"
    PARQUET = "parquet"


class ResizeMode(StrEnum):
    """What becomes of a picture whose shape or size is not the wanted one; as in img2dataset."""

    NO = "no"
    BORDER = "border"
    KEEP_RATIO = "keep_ratio"
    KEEP_RATIO_LARGEST = "keep_ratio_largest"
    CENTER_CROP = "center_crop"


class EncodeFormat(StrEnum):
    """The format that images are stored in."""

    JPG = "jpg"
    PNG = "png"
    WEBP = "webp"


class IccMode(StrEnum):
    """What becomes of the colours of a picture with an ICC profile."""

    IGNORE = "ignore"
    SRGB = "srgb"


class HashKind(StrEnum):
    """The hash of the downloaded bytes that is kept with each sample."""

    MD5 = "md5"
    SHA256 = "sha256"
    SHA512 = "sha512"


class BuildConfig(Settings):
    """URL list → dataset."""

    input: Place
    """The URL list: a file, a folder or a glob; parquet, csv, tsv, json, jsonl or txt, also .gz."""
    output: Place
    """The dataset's folder."""
    url_col: str = "url"
    """The column with the URLs."""
    caption_col: str | None = "caption"
    """The column with the captions; null when there are none."""
    save_additional_columns: list[str] | None = None
    """Further columns to carry into the dataset; null carries all of them."""
    output_format: OutputFormat = OutputFormat.WEBDATASET
    """`webdataset` (tar files) or `parquet` (images as a column)."""
    number_sample_per_shard: Annotated[int, Field(ge=1, le=10_000_000)] = 10_000
    """Input rows per shard."""
    image_size: Annotated[int, Field(ge=1, le=8192)] = 256
    """Wanted size in pixels; which side it means depends on `resize_mode`."""
    resize_mode: ResizeMode = ResizeMode.KEEP_RATIO
    """no, border, keep_ratio, keep_ratio_largest or center_crop."""
    resize_only_if_bigger: bool = True
    """Leave pictures that are smaller than `image_size` as they are."""
    encode_format: EncodeFormat = EncodeFormat.JPG
    """jpg, png or webp."""
    encode_quality: Annotated[int, Field(ge=0, le=100, validate_default=True)] = 95
    """1–100 for jpg and webp; compression 0–9 for png."""
    skip_reencode: bool = False
    """Store the downloaded bytes as they are when the picture needs no resize and has the wanted format."""
    icc: IccMode = IccMode.IGNORE
    """`srgb` converts pictures with an ICC profile to sRGB; `ignore` takes their numbers as they are."""
    compute_hash: HashKind | None = HashKind.SHA256
    """md5, sha256 or sha512 of the downloaded bytes, in a column of that name; null for none."""
    extract_exif: bool = True
    """Keep the pictures' EXIF tags, as JSON in the column `exif`."""
    timeout: Annotated[float, Field(gt=0, le=3600)] = 10.0
    """Seconds for one whole request, from connecting to the last byte."""
    retries: Annotated[int, Field(ge=0, le=20)] = 2
    """Further tries for errors that may pass (time-outs, resets, 429 and 5xx)."""
    max_download_bytes: Annotated[int, Field(ge=1)] = 64 << 20
    """Largest response body that is read."""
    max_image_pixels: Annotated[int, Field(ge=1)] = MAX_IMAGE_PIXELS
    """Largest picture that is decoded (width × height), told from its header; none is stored with over 100 million."""
    max_redirects: Annotated[int, Field(ge=0, le=20)] = 5
    """Redirects that are followed."""
    connections: Annotated[int, Field(ge=1, le=1024)] = 64
    """Simultaneous connections of one task."""
    connections_per_host: Annotated[int, Field(ge=1, le=1024)] = 16
    """Simultaneous connections of one task to one host."""
    requests_per_second_per_host: Annotated[float, Field(gt=0)] | None = None
    """Requests that one task begins in a second on one host; null: as many as the connections allow."""
    min_image_size: Annotated[int, Field(ge=0)] = 0
    """Pictures whose shorter side is below this many pixels are left out."""
    max_image_area: Annotated[float, Field(gt=0)] = float("inf")
    """Pictures of more than this many pixels are left out."""
    max_aspect_ratio: Annotated[float, Field(ge=1)] = float("inf")
    """Pictures whose longer side is more than this many times the shorter are left out."""
    disallowed_header_directives: list[str] = ["noai", "noimageai", "noindex", "noimageindex"]
    """`X-Robots-Tag` directives that are honoured by leaving the picture out."""
    user_agent_token: str | None = None
    """Our name in the User-Agent, for directives that are meant for us alone."""
    respect_robots_txt: bool = False
    """Ask each host for its robots.txt first, and leave out what that forbids."""
    proxy: str | None = None
    """Proxy for all requests (http://proxy:3128), which then decides what is asked; login in DIPTYCH_PROXY_LOGIN."""
    allow_private_addresses: list[str] = []
    """Address ranges of private networks that may be asked, e.g. [127.0.0.0/8]."""
    tasks: Annotated[int, Field(ge=1)] | None = None
    """Shards that are built at once; null: one per core of the cluster."""

    @field_validator("allow_private_addresses")
    @classmethod
    def _are_networks(cls, value: list[str]) -> list[str]:
        for text in value:
            ipaddress.ip_network(text, strict=False)
        return value

    @field_validator("encode_quality")
    @classmethod
    def _fits_the_format(cls, value: int, info: ValidationInfo) -> int:
        if info.data.get("encode_format") is EncodeFormat.PNG and value > MAX_PNG_COMPRESSION:
            raise ValueError(f"encode_quality for png is the compression, 0 to {MAX_PNG_COMPRESSION}")
        return value
