"""Says for people what the records hold as names and numbers."""

import re
from collections.abc import Sequence

from datapipe.status import SampleStatus
from infra.terminal import printable

# Where a row failed, in the order of its way, and the reasons in words.
FAILURES: dict[str, dict[str, str]] = {
    "URL": {
        SampleStatus.URL_EMPTY: "No URL in the row",
        SampleStatus.URL_MALFORMED: "URL cannot be parsed",
        SampleStatus.SCHEME_REFUSED: "Neither http nor https",
        SampleStatus.ADDRESS_REFUSED: "Private address, not allowed",
    },
    "Connection": {
        SampleStatus.HOST_NOT_FOUND: "Host name not found",
        SampleStatus.DNS_FAILED: "Host name could not be looked up (DNS)",
        SampleStatus.CONNECTION_FAILED: "No connection to the host",
        SampleStatus.TLS_FAILED: "Secure connection failed (TLS)",
        SampleStatus.TIMEOUT: "Took longer than the time limit",
        SampleStatus.LOW_SPEED: "Dripped in too slowly",
        SampleStatus.TOO_MANY_REDIRECTS: "Too many redirects",
        SampleStatus.PROTOCOL_ERROR: "Answer was not proper HTTP",
    },
    "Answer": {
        SampleStatus.HTTP_403: "Forbidden (403)",
        SampleStatus.HTTP_404: "Not found (404)",
        SampleStatus.HTTP_410: "Gone for good (410)",
        SampleStatus.HTTP_429: "Too many requests (429)",
        SampleStatus.HTTP_4XX: "Refused for another reason (4xx)",
        SampleStatus.HTTP_5XX: "Server error (5xx)",
        SampleStatus.HTTP_OTHER: "Unexpected HTTP status",
        SampleStatus.OPT_OUT: "Owner opted out (X-Robots-Tag)",
        SampleStatus.ROBOTS_TXT: "Forbidden by robots.txt",
        SampleStatus.TOO_LARGE: "More bytes than the limit",
        SampleStatus.EMPTY_BODY: "Answer without content",
    },
    "Picture": {
        SampleStatus.NOT_AN_IMAGE: "Not an image (HTML, text …)",
        SampleStatus.BROKEN_IMAGE: "Broken or truncated image",
        SampleStatus.DECODER_CRASH: "Crashed the decoder",
        SampleStatus.TOO_MANY_PIXELS: "More pixels than can be decoded safely",
        SampleStatus.TOO_SMALL: "Smaller than the minimum size",
        SampleStatus.TOO_BIG: "Larger than the maximum area",
        SampleStatus.ASPECT_RATIO: "Too long or too wide",
        SampleStatus.RESIZE_FAILED: "Could not be resized",
    },
}
OTHER = "Other"
MAX_REASON = 80  # characters: img2dataset's reasons are free text
_WORDS = {str(status): words for reasons in FAILURES.values() for status, words in reasons.items()}

_RECALL = re.compile(r"(?P<query>text|image)_to_(?P<answer>text|image)_(?:recall|r)(?:@|_at_)(?P<k>\d+)")
_DIRECTIONS = {("text", "image"): "Text → image", ("image", "text"): "Image → text"}


def failure_group(status: str) -> str:
    """Where on its way a row with this status failed."""
    return next((group for group, reasons in FAILURES.items() if status in reasons), OTHER)


def failure_words(status: str) -> str:
    """The reason in words; a name that is not ours as it is, on one line of bounded length."""
    return _WORDS.get(status) or shortened(printable(status.replace("_", " ")), MAX_REASON)


def score_words(name: str) -> str:
    """`text_to_image_recall@5` as `Text → image, recall@5`; an unknown name with spaces."""
    recall = _RECALL.fullmatch(name)
    if recall is None:
        words = name.replace("_", " ").replace("zero shot", "zero-shot")
        return words[:1].upper() + words[1:]
    direction = _DIRECTIONS.get((recall["query"], recall["answer"]), f"{recall['query']} → {recall['answer']}")
    return f"{direction}, recall@{recall['k']}"


def headline_score(names: Sequence[str]) -> int | None:
    """Which score stands in the header: text → image recall@1, else the first."""
    wanted = [index for index, name in enumerate(names) if score_words(name) == "Text → image, recall@1"]
    return wanted[0] if wanted else 0 if names else None


def percent(share: float) -> str:
    """A share with the decimals that tell: `0.23%`, `38.4%`, `100%`."""
    if share in (0.0, 1.0):
        return f"{share:.0%}"
    decimals = 2 if share < 0.0995 else 1
    # What is almost all is not shown as all.
    shown = min(100 * share, 100 - 10**-decimals)
    return f"{shown:.{decimals}f}%"


def times_chance(value: float, chance: float) -> str:
    """How many times as good as guessing: `169×`, `4.2×`."""
    if chance <= 0:
        return "—"
    times = value / chance
    return f"{times:,.0f}×" if times >= 9.95 else f"{times:.1f}×"


def measured(value: float) -> str:
    """A measured value, four digits of a fraction: `640`, `1.333`, `123,400`."""
    return f"{value:,.0f}" if value.is_integer() else f"{value:,.4g}"


def file_size(size_bytes: float) -> str:
    """Bytes in decimal units: `812 B`, `3.4 KB`, `26.8 MB`."""
    for unit in ("B", "KB", "MB", "GB", "TB"):
        if size_bytes < 999.5 or unit == "TB":
            digits = 0 if unit == "B" or size_bytes >= 99.95 else 1
            return f"{size_bytes:,.{digits}f} {unit}"
        size_bytes /= 1000
    raise AssertionError("unreachable")


def shortened(text: str, length: int) -> str:
    """The text on one line, cut at `length` characters."""
    line = " ".join(text.split())
    return line if len(line) <= length else f"{line[: length - 1].rstrip()}…"
