"""The closed set of what can become of a row: one success and some two dozen reasons."""

from enum import StrEnum


class SampleStatus(StrEnum):
    """What became of one input row. The values are the keys of every count; free text goes to the row."""

    SUCCESS = "success"
    # the URL
    URL_EMPTY = "url_empty"
    URL_MALFORMED = "url_malformed"
    SCHEME_REFUSED = "scheme_refused"
    ADDRESS_REFUSED = "address_refused"
    # the connection
    HOST_NOT_FOUND = "host_not_found"
    DNS_FAILED = "dns_failed"
    CONNECTION_FAILED = "connection_failed"
    TLS_FAILED = "tls_failed"
    TIMEOUT = "timeout"
    LOW_SPEED = "low_speed"
    TOO_MANY_REDIRECTS = "too_many_redirects"
    PROTOCOL_ERROR = "protocol_error"
    # the answer
    HTTP_403 = "http_403"
    HTTP_404 = "http_404"
    HTTP_410 = "http_410"
    HTTP_429 = "http_429"
    HTTP_4XX = "http_4xx"
    HTTP_5XX = "http_5xx"
    HTTP_OTHER = "http_other"
    OPT_OUT = "opt_out"
    ROBOTS_TXT = "robots_txt"
    TOO_LARGE = "too_large"
    EMPTY_BODY = "empty_body"
    # the picture
    NOT_AN_IMAGE = "not_an_image"
    BROKEN_IMAGE = "broken_image"
    DECODER_CRASH = "decoder_crash"
    TOO_MANY_PIXELS = "too_many_pixels"
    TOO_SMALL = "too_small"
    TOO_BIG = "too_big"
    ASPECT_RATIO = "aspect_ratio"
    RESIZE_FAILED = "resize_failed"

    @property
    def is_success(self) -> bool:
        """Whether the row became a sample."""
        return self is SampleStatus.SUCCESS

    @property
    def is_download_failure(self) -> bool:
        """Whether img2dataset would count the row as `failed_to_download` (else `failed_to_resize`)."""
        return self not in _AFTER_DOWNLOAD and not self.is_success


_AFTER_DOWNLOAD = frozenset(
    {
        SampleStatus.NOT_AN_IMAGE,
        SampleStatus.BROKEN_IMAGE,
        SampleStatus.DECODER_CRASH,
        SampleStatus.TOO_MANY_PIXELS,
        SampleStatus.TOO_SMALL,
        SampleStatus.TOO_BIG,
        SampleStatus.ASPECT_RATIO,
        SampleStatus.RESIZE_FAILED,
    }
)
