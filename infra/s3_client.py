"""Makes the boto3 client for S3 and turns its failures into the user's errors. Settings are the usual AWS ones."""

import contextlib
import os
from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from infra.errors import DiptychError, OutputError, StorageFailed

if TYPE_CHECKING:
    from botocore.exceptions import ClientError

CONNECT_TIMEOUT_S = 10
HASTY_TIMEOUT_S = 10  # SeaweedFS makes one of eight racing writers wait for up to 6 s
READ_TIMEOUT_S = 60  # eight writers racing for one object may make a server wait for seconds
DEFAULT_ATTEMPTS = (
    12  # with doubling waits of up to 20 s: rides out a minute and more of throttling or of a server's restart
)
POOL_CONNECTIONS = 64
MISSING = frozenset({"404", "NoSuchKey", "NotFound"})
REFUSED = frozenset({"401", "403", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken"})
CONDITION_FAILED = frozenset({"412", "PreconditionFailed"})


@lru_cache(maxsize=2)
def s3_client(*, is_hasty: bool = False) -> Any:
    """This process's client, for all threads; credentials, region and endpoint by the standard AWS chain.

    A hasty one gives up after seconds: for a caller that has to be through by then, and tries again itself.
    """
    import boto3
    from botocore.config import Config

    def make(style: str) -> Any:
        config = Config(
            connect_timeout=CONNECT_TIMEOUT_S,
            read_timeout=HASTY_TIMEOUT_S if is_hasty else READ_TIMEOUT_S,
            retries={"mode": "standard", "total_max_attempts": 2 if is_hasty else attempts()},
            max_pool_connections=POOL_CONNECTIONS,
            # Other checksums than the signature's are not known to every S3-compatible server.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            s3={"addressing_style": style},
        )
        return boto3.session.Session().client("s3", config=config)

    client = make("auto")
    # Servers other than Amazon's are seldom reachable under a host name of each bucket.
    return client if client.meta.endpoint_url.endswith("amazonaws.com") else make("path")


def attempts() -> int:
    """How often a request is tried: AWS_MAX_ATTEMPTS, or enough for a minute of trouble."""
    return int(os.environ.get("AWS_MAX_ATTEMPTS", DEFAULT_ATTEMPTS))


def error_code(error: "ClientError") -> str:
    """The code that the server gave."""
    return str(error.response.get("Error", {}).get("Code", ""))


@contextlib.contextmanager
def explained(url: str) -> Iterator[None]:
    """Raises FileNotFoundError, OutputError or StorageFailed for what boto3 raises in the block."""
    from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
    from botocore.exceptions import ConnectionError as BotoConnectionError

    try:
        yield
    except ClientError as error:
        raise explanation(url, error_code(error)) from error
    except (BotoConnectionError, HTTPClientError) as error:
        raise StorageFailed(
            f"{url}: the storage does not answer ({type(error).__name__}, tried {attempts()} times).",
            "Everything that was finished is kept.",
            "Check the endpoint (AWS_ENDPOINT_URL) and the network, and run the same command again: it goes on.",
        ) from error
    except BotoCoreError as error:
        raise OutputError(
            f"{url} cannot be reached ({type(error).__name__}).",
            "Credentials, region and endpoint are found as by every AWS tool: environment, profile or instance role.",
            "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_ENDPOINT_URL for a server of your own).",
        ) from error


def explanation(url: str, code: str) -> Exception:
    """The error for what the storage answered."""
    if code in MISSING:
        return FileNotFoundError(url)
    if code == "NoSuchBucket":
        return OutputError(
            f"{url}: the bucket does not exist.", "Buckets are not made here.", "Make it, or correct it."
        )
    if code in REFUSED:
        return OutputError(
            f"{url}: the storage refuses the credentials ({code}).",
            "They must be valid, and may read, write, list and delete there.",
            "Correct AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the bucket's policy.",
        )
    failed: DiptychError = StorageFailed(
        f"{url}: the storage failed ({code}, tried {attempts()} times).",
        "Everything that was finished is kept.",
        "Run the same command again when it is well: it goes on.",
    )
    return failed
