"""Makes the boto3 client for S3 and turns its failures into the user's errors. Settings are the usual AWS ones."""

import contextlib
import os
from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from infra.errors import CredentialsRefused, DiptychError, FixedCredentialsRefused, OutputError, StorageFailed
from infra.s3_retry import Resending, retry_rule

if TYPE_CHECKING:
    from botocore.exceptions import ClientError

CONNECT_TIMEOUT_S = 10
HASTY_TIMEOUT_S = 10  # SeaweedFS makes one of eight racing writers wait for up to 6 s
READ_TIMEOUT_S = 60  # eight writers racing for one object may make a server wait for seconds
POOL_CONNECTIONS = 64
MISSING = frozenset({"404", "NoSuchKey", "NotFound"})
CONDITION_FAILED = frozenset({"412", "PreconditionFailed"})


@lru_cache(maxsize=2)
def s3_client(*, is_hasty: bool = False) -> Any:
    """This process's client, for all threads; credentials, region and endpoint by the standard AWS chain.

    A hasty one gives up after seconds: for a caller that has to be through by then, and tries again itself.
    """
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
            connect_timeout=CONNECT_TIMEOUT_S,
            read_timeout=HASTY_TIMEOUT_S if is_hasty else READ_TIMEOUT_S,
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
    client.meta.events.register("needs-retry.s3", Resending(retry_rule(is_hasty=is_hasty)).answer)
    return client


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
        raise explanation(url, error_code(error)) from error
    except (boto.ConnectionError, boto.HTTPClientError) as error:
        raise StorageFailed(
            f"{url}: the storage does not answer ({type(error).__name__}, {retry_rule()}).",
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
            f"{url} cannot be reached ({type(error).__name__}).",
            "Credentials, region and endpoint are found as by every AWS tool: environment, profile or instance role.",
            "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_ENDPOINT_URL for a server of your own).",
        ) from error


def explanation(url: str, code: str) -> Exception:
    """The error for what the storage answered."""
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
        f"{url}: the storage failed ({code}, {retry_rule()}).",
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
