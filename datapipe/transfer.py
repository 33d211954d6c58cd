"""One HTTP request of libcurl: its limits, what came back, and what that counts as."""

import io
import socket
import ssl
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import pycurl

from datapipe.addresses import Network, may_be_asked
from datapipe.robots import is_opt_out
from datapipe.status import SampleStatus

LOW_SPEED_BYTES_S = 256  # a server that sends less than this for so long is dropped before a long time limit ends
LOW_SPEED_TIME_S = 20
USER_AGENT = f"Mozilla/5.0 (compatible; diptych/{version('diptych')})"

STATUS_OF_CURL_ERROR = {
    pycurl.E_UNSUPPORTED_PROTOCOL: (SampleStatus.SCHEME_REFUSED, "a redirect leads to a scheme that is not asked"),
    pycurl.E_URL_MALFORMAT: (SampleStatus.URL_MALFORMED, "the URL cannot be parsed"),
    pycurl.E_COULDNT_RESOLVE_HOST: (SampleStatus.HOST_NOT_FOUND, "the host's name has no address"),
    pycurl.E_COULDNT_CONNECT: (SampleStatus.CONNECTION_FAILED, "the connection could not be made"),
    pycurl.E_OPERATION_TIMEDOUT: (SampleStatus.TIMEOUT, "not whole within the time limit"),
    pycurl.E_TOO_MANY_REDIRECTS: (SampleStatus.TOO_MANY_REDIRECTS, "more redirects than allowed"),
    pycurl.E_SSL_CONNECT_ERROR: (SampleStatus.TLS_FAILED, "the TLS connection could not be made"),
    pycurl.E_PEER_FAILED_VERIFICATION: (SampleStatus.TLS_FAILED, "the TLS certificate is not valid"),
}
PROTOCOL_ERROR = (SampleStatus.PROTOCOL_ERROR, "the answer was cut or is not HTTP")


@dataclass(frozen=True, slots=True)
class TransferLimits:
    """What every request is held to."""

    timeout_s: float
    max_bytes: int
    max_redirects: int
    allowed_networks: tuple[Network, ...]
    disallowed_directives: tuple[str, ...]
    user_agent_token: str | None


class Transfer:
    """A libcurl handle that is used for one request after another."""

    def __init__(self, limits: TransferLimits) -> None:
        self._limits = limits
        self._body = io.BytesIO()
        self.handle = pycurl.Curl()
        self._forget()
        self._set_options()

    def prepare(self, url: str) -> None:
        """Makes the handle ready for this URL."""
        self._forget()
        self.handle.setopt(pycurl.URL, url)

    def outcome(self, curl_code: int) -> tuple[SampleStatus, str]:
        """What the ended transfer counts as, with a text that is the same on every try."""
        if self._too_large or curl_code == pycurl.E_FILESIZE_EXCEEDED:
            return SampleStatus.TOO_LARGE, f"more than {self._limits.max_bytes} bytes"
        if curl_code == pycurl.E_UNSUPPORTED_PROTOCOL and not self._is_redirect():
            return PROTOCOL_ERROR  # libcurl's word for HTTP/0.9 too
        if self._address_refused and curl_code == pycurl.E_COULDNT_CONNECT:
            return SampleStatus.ADDRESS_REFUSED, "the host's address is private"
        if curl_code != pycurl.E_OK:
            return STATUS_OF_CURL_ERROR.get(curl_code, PROTOCOL_ERROR)
        code = int(self.handle.getinfo(pycurl.RESPONSE_CODE))
        if code != 200:
            return _status_of_http(code), f"HTTP status {code}"
        if is_opt_out(self._robots, self._limits.disallowed_directives, self._limits.user_agent_token):
            return SampleStatus.OPT_OUT, "X-Robots-Tag forbids the use"
        if not self._body.tell():
            return SampleStatus.EMPTY_BODY, "the answer has no body"
        return SampleStatus.SUCCESS, ""

    def take_body(self) -> bytes:
        """The body; the transfer lets go of it."""
        body = self._body.getvalue()
        self._body = io.BytesIO()
        return body

    def close(self) -> None:
        """Frees the handle."""
        self.handle.close()

    def _is_redirect(self) -> bool:
        return 300 <= int(self.handle.getinfo(pycurl.RESPONSE_CODE)) < 400

    def _forget(self) -> None:
        self._body = io.BytesIO()
        self._received = 0
        self._robots: list[str] = []
        self.retry_after: str | None = None
        self._too_large = False
        self._address_refused = False

    def _set_options(self) -> None:
        handle, limits = self.handle, self._limits
        token = f" {limits.user_agent_token}" if limits.user_agent_token else ""
        handle.setopt(pycurl.USERAGENT, USER_AGENT + token)
        handle.setopt(pycurl.HTTPHEADER, ["Accept: image/*,*/*;q=0.5", "Accept-Encoding: identity"])
        handle.setopt(pycurl.PROTOCOLS, pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS)
        handle.setopt(pycurl.REDIR_PROTOCOLS, pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS)
        handle.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1)
        handle.setopt(pycurl.FOLLOWLOCATION, True)
        handle.setopt(pycurl.MAXREDIRS, limits.max_redirects)
        handle.setopt(pycurl.TIMEOUT_MS, int(limits.timeout_s * 1000))
        handle.setopt(pycurl.CONNECTTIMEOUT_MS, int(limits.timeout_s * 1000))
        handle.setopt(pycurl.LOW_SPEED_LIMIT, LOW_SPEED_BYTES_S)
        handle.setopt(pycurl.LOW_SPEED_TIME, LOW_SPEED_TIME_S)
        handle.setopt(pycurl.MAXFILESIZE_LARGE, limits.max_bytes)
        handle.setopt(pycurl.DNS_CACHE_TIMEOUT, 600)
        handle.setopt(pycurl.NOSIGNAL, True)
        authorities = ssl.get_default_verify_paths().cafile
        if authorities is not None:
            # The wheel's libcurl knows only the place that they have on the system it was built on.
            handle.setopt(pycurl.CAINFO, authorities)
        # What the environment says of proxies is not for a crawler's many hosts, and would get round the address check.
        handle.setopt(pycurl.PROXY, "")
        handle.setopt(pycurl.OPENSOCKETFUNCTION, self._open_socket)
        handle.setopt(pycurl.HEADERFUNCTION, self._on_header)
        handle.setopt(pycurl.WRITEFUNCTION, self._on_body)

    def _open_socket(self, _purpose: int, address: Any) -> Any:
        """Called by libcurl after DNS, for every hop: so neither a redirect nor DNS rebinding gets round it."""
        family, kind, protocol, target = address
        host = target[0].decode() if isinstance(target[0], bytes) else str(target[0])
        if family not in (socket.AF_INET, socket.AF_INET6) or not may_be_asked(host, self._limits.allowed_networks):
            self._address_refused = True
            return pycurl.SOCKET_BAD
        return socket.socket(family, kind, protocol)

    def _on_header(self, line: bytes) -> None:
        if line.startswith(b"HTTP/"):
            # A new answer begins: after a redirect only the last one's headers count.
            self._robots, self.retry_after = [], None
            return
        name, _, value = line.partition(b":")
        match name.strip().lower():
            case b"x-robots-tag":
                self._robots.append(value.decode("latin-1").strip())
            case b"retry-after":
                self.retry_after = value.decode("latin-1").strip()

    def _on_body(self, chunk: bytes) -> int | None:
        self._received += len(chunk)
        if self._received > self._limits.max_bytes:
            self._too_large = True
            return -1
        self._body.write(chunk)
        return None


def _status_of_http(code: int) -> SampleStatus:
    exact = {
        403: SampleStatus.HTTP_403,
        404: SampleStatus.HTTP_404,
        410: SampleStatus.HTTP_410,
        429: SampleStatus.HTTP_429,
    }
    if code in exact:
        return exact[code]
    if 400 <= code < 500:
        return SampleStatus.HTTP_4XX
    return SampleStatus.HTTP_5XX if 500 <= code < 600 else SampleStatus.HTTP_OTHER
