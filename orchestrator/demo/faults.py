"""The web's usual faults that the demo plants, and what a build should count each of them as."""

from enum import StrEnum

from datapipe.status import SampleStatus

SLOW_ANSWER_S = 2.0


class Fault(StrEnum):
    """One way in which a URL misbehaves. The value is also the first part of its path on the demo's server."""

    NOT_FOUND = "not-found"
    FORBIDDEN = "forbidden"
    SERVER_ERROR = "server-error"
    SLOW = "slow"
    NEVER = "never"
    REDIRECT = "redirect"
    REDIRECT_LOOP = "redirect-loop"
    HTML = "html"
    TRUNCATED = "truncated"
    TINY = "tiny"
    OPT_OUT = "opt-out"
    EMPTY = "empty"
    UNKNOWN_HOST = "unknown-host"
    MALFORMED = "malformed"


# Where a build has `min_image_size` above 5 (for TINY) and a timeout above SLOW_ANSWER_S.
EXPECTED_STATUS = {
    Fault.NOT_FOUND: SampleStatus.HTTP_404,
    Fault.FORBIDDEN: SampleStatus.HTTP_403,
    Fault.SERVER_ERROR: SampleStatus.HTTP_5XX,
    Fault.SLOW: SampleStatus.SUCCESS,
    Fault.NEVER: SampleStatus.TIMEOUT,
    Fault.REDIRECT: SampleStatus.SUCCESS,
    Fault.REDIRECT_LOOP: SampleStatus.TOO_MANY_REDIRECTS,
    Fault.HTML: SampleStatus.NOT_AN_IMAGE,
    Fault.TRUNCATED: SampleStatus.BROKEN_IMAGE,
    Fault.TINY: SampleStatus.TOO_SMALL,
    Fault.OPT_OUT: SampleStatus.OPT_OUT,
    Fault.EMPTY: SampleStatus.EMPTY_BODY,
    Fault.UNKNOWN_HOST: SampleStatus.HOST_NOT_FOUND,
    Fault.MALFORMED: SampleStatus.URL_MALFORMED,
}
