"""Makes the boto3 client for S3 and turns its failures into the user's errors. Settings are the usual AWS ones."""

import contextlib
import os
import time
from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from infra.errors import (
    CredentialsRefused,
    DiptychError,
    FixedCredentialsRefused,
    MachineError,
    OutputError,
    StorageFailed,
)
from infra.s3_retry import Resending, RetryRule, retry_rule
from infra.secret_values import is_secret_value

if TYPE_CHECKING:
    from botocore.exceptions import ClientError

CONNECT_TIMEOUT_S = 10
# Both attempts of a hasty request are sent within the time of a lease that was renewed before them.
HASTY_CONNECT_TIMEOUT_S = 4
HASTY_TIMEOUT_S = 10  # SeaweedFS makes one of eight racing writers wait for up to 6 s
READ_TIMEOUT_S = 60  # eight writers racing for one object may make a server wait for seconds
POOL_CONNECTIONS = 64
CLOCK_MARGIN_S = 15 * 60.0  # what servers allow
WRONG_CLOCK = "RequestTimeTooSkewed"
SETTINGS = (
    *("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION", "AWS_PROFILE", "AWS_DEFAULT_PROFILE"),
    *("AWS_MAX_ATTEMPTS", "AWS_RETRY_MODE"),
)
MISSING = frozenset({"404", "NoSuchKey", "NotFound"})
CONDITION_FAILED = frozenset({"412", "PreconditionFailed"})


@lru_cache(maxsize=2)
def s3_client(*, is_hasty: bool = False) -> Any:
    """This process's client, for all threads; credentials, region and endpoint by the standard AWS chain.

    A hasty one gives up after seconds: for a caller that has to be through by then, and tries again itself.
    Raises MachineError when those settings cannot be used.
    """
    from botocore.exceptions import BotoCoreError

    try:
        rule = retry_rule(is_hasty=is_hasty)
        if is_hasty:
            return _made(rule, HASTY_CONNECT_TIMEOUT_S, HASTY_TIMEOUT_S)
        return _made(rule, CONNECT_TIMEOUT_S, READ_TIMEOUT_S)
    except (BotoCoreError, ValueError) as error:
        raise _unusable_settings(error) from error


def _made(rule: RetryRule, connect_timeout_s: float, read_timeout_s: float) -> Any:
    import boto3
    import botocore.session
    from botocore.config import Config

    from infra.s3_credentials import RenewedCredentials

    credentials = RenewedCredentials()
    core = botocore.session.Session()
    core.register_component("credential_provider", credentials)
    session = boto3.session.Session(botocore_session=core)

    def make(style: str) -> Any:
        config = Config(
            connect_timeout=connect_timeout_s,
            read_timeout=read_timeout_s,
            retries={"mode": "standard", "total_max_attempts": 1},  # what is sent again is said below
            max_pool_connections=POOL_CONNECTIONS,
            # Other checksums than the signature's are not known to every S3-compatible server.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            s3={"addressing_style": style},
        )
        return session.client("s3", config=config)

    client = make("auto")
    # Servers other than Amazon's are seldom reachable under a host name of each bucket.
    client = client if client.meta.endpoint_url.endswith("amazonaws.com") else make("path")
    client.meta.events.register("before-sign.s3", credentials.note)
    client.meta.events.register("needs-retry.s3", credentials.resend_refused)
    client.meta.events.register("needs-retry.s3", Resending(rule).answer)
    return client


def _unusable_settings(error: Exception) -> MachineError:
    """The error for settings of which botocore makes no client, with the variables that have to do with it."""
    text = _shown(error)
    at_fault = [name for name in SETTINGS if os.environ.get(name) and os.environ[name] in str(error)]
    return MachineError(
        f"{' and '.join(at_fault) or 'The AWS configuration'}: no client for S3 can be made of it ({text}).",
        "AWS_ENDPOINT_URL is an address such as http://localhost:9000, AWS_MAX_ATTEMPTS a whole number from 1 on, "
        "AWS_PROFILE a profile of the AWS configuration.",
        "Correct or unset it.",
    )


def _shown(error: Exception) -> str:
    """What botocore says, or only its kind where a login might be in it."""
    text = " ".join(str(error).split())
    return type(error).__name__ if "@" in text or is_secret_value(text) else text


def error_code(error: "ClientError") -> str:
    """The code that the server gave."""
    return str(error.response.get("Error", {}).get("Code", ""))


@contextlib.contextmanager
def explained(url: str) -> Iterator[None]:
    """Raises FileNotFoundError, OutputError, CredentialsRefused or StorageFailed for what boto3 raises in the block."""
    from botocore import exceptions as boto

    no_credentials = (
        *(boto.NoCredentialsError, boto.PartialCredentialsError, boto.CredentialRetrievalError),
        *(boto.SSOError, boto.TokenRetrievalError),
    )
    try:
        yield
    except boto.ClientError as error:
        raise _answered(url, error) from error
    except (boto.ConnectionError, boto.HTTPClientError) as error:
        raise StorageFailed(
            f"{url}: the storage does not answer ({_shown(error)}, {retry_rule()}).",
            "Everything that was finished is kept.",
            "Check the endpoint (AWS_ENDPOINT_URL) and the network, and run the same command again: it goes on.",
        ) from error
    except no_credentials as error:
        raise CredentialsRefused(
            f"{url}: no credentials are to be had ({type(error).__name__}).",
            "They are found as by every AWS tool: environment, profile or instance role.",
            "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or sign in again (`aws sso login`).",
        ) from error
    except boto.BotoCoreError as error:
        raise OutputError(
            f"{url} cannot be reached ({_shown(error)}).",
            "Credentials, region and endpoint are found as by every AWS tool: environment, profile or instance role.",
            "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_ENDPOINT_URL for a server of your own).",
        ) from error


def _answered(url: str, error: "ClientError") -> Exception:
    code, told = error_code(error), error.response.get("ResponseMetadata", {})
    # Answers to HEAD have no body that would tell why.
    off_s = _clock_off_s(told.get("HTTPHeaders", {}).get("date"))
    if code == WRONG_CLOCK or (code == "403" and off_s is not None and abs(off_s) > CLOCK_MARGIN_S):
        by = "" if off_s is None else f" by {abs(off_s) / 60:,.0f} minutes"
        return StorageFailed(
            f"{url}: the storage refuses a request of another time than its own: the two clocks differ{by}.",
            "A request is signed with the time, which may differ by 15 minutes.",
            "Set the clock of this machine (or of the storage's), and run the same command again.",
        )
    return explanation(url, code, int(told.get("RetryAttempts", 0)))


def _clock_off_s(date: str | None) -> float | None:
    """By how much this machine's clock is ahead of that of the storage, whose answer has this date."""
    from email.utils import parsedate_to_datetime

    try:
        return time.time() - parsedate_to_datetime(date).timestamp() if date else None
    except ValueError:
        return None


def explanation(url: str, code: str, resent: int = 0) -> Exception:
    """The error for what the storage answered, after the request had been sent again so many times."""
    from infra.s3_credentials import REFUSED

    if code in MISSING:
        return FileNotFoundError(url)
    if code == "NoSuchBucket":
        return OutputError(
            f"{url}: the bucket does not exist.", "Buckets are not made here.", "Make it, or correct it."
        )
    if code in REFUSED:
        return _refusal(url, code)
    failed: DiptychError = StorageFailed(
        f"{url}: the storage failed ({code}{f', tried {resent + 1} times' if resent else ''}).",
        "Everything that was finished is kept.",
        "Run the same command again when it is well: it goes on.",
    )
    return failed


def _refusal(url: str, code: str) -> CredentialsRefused:
    found = f"{url}: the storage refuses the credentials ({code})."
    if os.environ.get("AWS_ACCESS_KEY_ID"):
        return FixedCredentialsRefused(
            found,
            "Those of the environment stay what they were when a process began; they may have expired, and must allow "
            "to read, write, list and delete there.",
            "Set new ones (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN), or mend the bucket's policy.",
        )
    return CredentialsRefused(
        found,
        "They were looked up again, and are still the same; they may have expired, and must allow to read, write, list "
        "and delete there.",
        "Renew them where they come from (the credentials file, the profile, the role): processes that run notice it. "
        "Or mend the bucket's policy.",
    )
