"""The credentials of a client of S3: found by the standard AWS chain, and looked up again when they are refused."""

import threading
from collections.abc import Callable, Mapping
from typing import Any

import botocore.session
from botocore.exceptions import BotoCoreError, CredentialRetrievalError, NoCredentialsError

# Answers to HEAD have no body: all that is told of a token that has expired is 400, and of any other refusal 403.
REFUSED = frozenset(
    {
        *("400", "401", "403", "AccessDenied", "ExpiredToken", "InvalidAccessKeyId", "InvalidSecurity", "InvalidToken"),
        *("SignatureDoesNotMatch", "TokenRefreshRequired"),
    }
)
SIGNED_WITH = "diptych_signed_with"  # among botocore's notes on a request
RENEWED = "diptych_renewed"


class RenewedCredentials:
    """Signs requests as botocore's own credentials do; of one client, for all its threads.

    Sources that know when theirs expire (roles, web identity, `credential_process`) renew them by themselves. All
    others are read once by botocore: so a request that is refused makes them be looked up again, and is sent once more
    when others are found by then, as after another program has rewritten the credentials file.
    """

    method = "diptych"  # botocore tells it in the client's User-Agent

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._source: Any = None

    def load_credentials(self) -> "RenewedCredentials":
        """These, for a session of botocore that asks them as its provider."""
        return self

    def get_frozen_credentials(self) -> Any:
        """What the next request is signed with. Raises BotoCoreError when there is none."""
        source = self._source
        try:
            return _frozen(source)
        except BotoCoreError:
            # There was none yet, or it could not renew itself: somebody may have signed in again since.
            with self._lock:
                if self._source is source:
                    self._source = _look_up()
                return _frozen(self._source)

    def get_deferred_property(self, _name: str) -> Callable[[], None]:
        """Nothing that botocore might want to know besides."""
        return lambda: None

    def note(self, *, request: Any, **_: Any) -> None:
        """Handles `before-sign`: notes on the request with which credentials it goes."""
        request.context[SIGNED_WITH] = self.get_frozen_credentials()

    def resend_refused(
        self, *, response: tuple[Any, Mapping[str, Any]] | None, request_dict: dict[str, Any], **_: Any
    ) -> float | None:
        """Handles `needs-retry`: 0 when a refused request is to be sent again at once, which it is only once."""
        context = request_dict["context"]
        if response is None or RENEWED in context or response[1].get("Error", {}).get("Code") not in REFUSED:
            return None
        context[RENEWED] = True
        return 0.0 if self._renew(context.get(SIGNED_WITH)) else None

    def _renew(self, refused: Any) -> bool:
        """Says whether there are other credentials by now than the refused ones."""
        with self._lock:  # of many threads that are refused at the same time, one looks
            try:
                if _frozen(self._source) != refused:
                    return True
                found = _look_up()
                is_other: bool = _frozen(found) != refused
            except BotoCoreError:
                return False
            if is_other:
                self._source = found
            return is_other


def _look_up() -> Any:
    """The AWS chain's credentials as they are now; None when there are none. Raises BotoCoreError."""
    return botocore.session.Session().get_credentials()


def _frozen(source: Any) -> Any:
    if source is None:
        raise NoCredentialsError
    try:
        return source.get_frozen_credentials()
    except RuntimeError as error:  # botocore's own, for a source that hands out expired ones
        raise CredentialRetrievalError(provider=source.method, error_msg="they have expired") from error
