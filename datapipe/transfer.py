"""One HTTP request of libcurl: its limits, what came back, and what that counts as."""

import io
import os
import socket
import time
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any
from urllib.parse import SplitResult

import pycurl

from datapipe.addresses import Network, may_be_asked
from datapipe.authorities import Authorities, unreadable
from datapipe.body import Body, BodyMemory
from datapipe.resolve import Addresses
from datapipe.robots import is_opt_out
from datapipe.status import SampleStatus
from infra.errors import DiptychError
from infra.open_files import is_shortage, shortage

# A server that drips its answer for so long is dropped before the time limit: it would drip again.
LOW_SPEED_BYTES_S = 1024
LOW_SPEED_TIME_S = 3.0
RECEIVE_BYTES = 256 << 10  # each piece that is received costs a call into Python
HEADERS_END = (b"\r\n\r\n", b"\n\n", b"\n\r\n")
REDIRECTS = frozenset({301, 302, 303, 307, 308})  # RFC 9110, 15.4
USER_AGENT = f"Mozilla/5.0 (compatible; diptych/{version('diptych')})"

STATUS_OF_CURL_ERROR = {
    pycurl.E_URL_MALFORMAT: (SampleStatus.URL_MALFORMED, "the URL cannot be parsed"),
    pycurl.E_COULDNT_RESOLVE_HOST: (SampleStatus.HOST_NOT_FOUND, "the host's name has no address"),
    pycurl.E_COULDNT_CONNECT: (SampleStatus.CONNECTION_FAILED, "the connection could not be made"),
    pycurl.E_OPERATION_TIMEDOUT: (SampleStatus.TIMEOUT, "not whole within the time limit"),
    pycurl.E_SSL_CONNECT_ERROR: (SampleStatus.TLS_FAILED, "the TLS connection could not be made"),
    pycurl.E_PEER_FAILED_VERIFICATION: (SampleStatus.TLS_FAILED, "the TLS certificate is not valid"),
}
PROTOCOL_ERROR = (SampleStatus.PROTOCOL_ERROR, "the answer was cut or is not HTTP")


PROXY_LOGIN_VARIABLE = "DIPTYCH_PROXY_LOGIN"  # user:password, which no config may hold


@dataclass(frozen=True, slots=True)
class TransferLimits:
    """What every request is held to."""

    max_bytes: int
    allowed_networks: tuple[Network, ...]
    authorities: Authorities | None
    user_agent_token: str | None
    proxy: str | None
    scratch: str | None = None  # where large bodies wait; None: with other temporary files


class Transfer:
    """A libcurl handle that is used for one request after another."""

    def __init__(self, limits: TransferLimits, memory: BodyMemory) -> None:
        self._limits = limits
        self._memory = memory
        self._body = Body(limits.scratch, memory)
        self._header = io.BytesIO()
        self.handle = pycurl.Curl()
        self._disallowed_directives: tuple[str, ...] = ()
        self._forget()
        self._set_options()

    def prepare(
        self, url: SplitResult, addresses: Addresses, timeout_s: float, disallowed_directives: tuple[str, ...]
    ) -> None:
        """Makes the handle ready for this URL, to end within `timeout_s`; without `addresses` a proxy knows them.

        An answer whose `X-Robots-Tag` has one of `disallowed_directives` counts as an opt-out. Raises MachineError for
        an https URL without any authority's certificate: it would count as its server's fault.
        """
        if url.scheme == "https" and self._limits.authorities is None:
            raise unreadable(None)
        self._forget()
        self._disallowed_directives = disallowed_directives
        self.handle.setopt(pycurl.URL, url.geturl())
        if addresses:
            self.handle.setopt(pycurl.RESOLVE, [resolve_entry(url, addresses)])
        self.handle.setopt(pycurl.TIMEOUT_MS, max(1, int(timeout_s * 1000)))
        self.handle.setopt(pycurl.CONNECTTIMEOUT_MS, max(1, int(timeout_s * 1000)))

    @property
    def redirect_url(self) -> str | None:
        """Where an answer that is a redirect leads; None for other answers. Empty when that is no URL."""
        if int(self.handle.getinfo(pycurl.RESPONSE_CODE)) not in REDIRECTS:
            return None
        if not self._header_values(b"location"):
            return None
        target = self.handle.getinfo_raw(pycurl.REDIRECT_URL) or b""
        return str(target.decode("utf-8", "replace"))

    def outcome(self, curl_code: int) -> tuple[SampleStatus, str]:
        """What the ended transfer counts as, with a text that is the same on every try.

        Raises OutputError or MachineError for what this machine lacked: none of it is the web's.
        """
        if curl_code != pycurl.E_OK and self._fault is not None:
            raise self._fault
        if curl_code == pycurl.E_SSL_CACERT_BADFILE:
            raise unreadable(self._limits.authorities)
        if self._too_large or curl_code == pycurl.E_FILESIZE_EXCEEDED:
            return SampleStatus.TOO_LARGE, f"more than {self._limits.max_bytes} bytes"
        if self._is_slow:
            return SampleStatus.LOW_SPEED, f"less than {LOW_SPEED_BYTES_S} bytes a second"
        if self._address_refused and curl_code == pycurl.E_COULDNT_CONNECT:
            return SampleStatus.ADDRESS_REFUSED, "the host's address is private"
        if curl_code != pycurl.E_OK:
            return STATUS_OF_CURL_ERROR.get(curl_code, PROTOCOL_ERROR)
        code = int(self.handle.getinfo(pycurl.RESPONSE_CODE))
        if code != 200:
            return _status_of_http(code), f"HTTP status {code}"
        robots = self._header_values(b"x-robots-tag")
        if is_opt_out(robots, self._disallowed_directives, self._limits.user_agent_token):
            return SampleStatus.OPT_OUT, "X-Robots-Tag forbids the use"
        if not any(end in self._header.getvalue() for end in HEADERS_END):
            return PROTOCOL_ERROR  # libcurl takes the end of the connection for that of the headers
        if not self._body.size_bytes:
            return SampleStatus.EMPTY_BODY, "the answer has no body"
        return SampleStatus.SUCCESS, ""

    def take_body(self) -> Body:
        """The body of an ended transfer, which is the caller's to clear."""
        body, self._body = self._body, Body(self._limits.scratch, self._memory)
        body.end()
        return body

    @property
    def retry_after(self) -> str | None:
        """The answer's `Retry-After` header."""
        values = self._header_values(b"retry-after")
        return values[0] if values else None

    def close(self) -> None:
        """Frees the handle and what it has received."""
        self._body.clear()
        self.handle.close()

    def _forget(self) -> None:
        self._body.clear()
        self._header.seek(0)
        self._header.truncate()
        self._too_large = self._is_slow = False
        self._address_refused = False
        self._fault: DiptychError | None = None
        self._body_began = 0.0

    def _set_options(self) -> None:
        handle, limits = self.handle, self._limits
        token = f" {limits.user_agent_token}" if limits.user_agent_token else ""
        handle.setopt(pycurl.USERAGENT, USER_AGENT + token)
        handle.setopt(pycurl.HTTPHEADER, ["Accept: image/*,*/*;q=0.5", "Accept-Encoding: identity"])
        handle.setopt(pycurl.PROTOCOLS, pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS)
        handle.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1)
        # Each hop is a request of its own: its URL, host, address and limits are looked at like the first one's.
        handle.setopt(pycurl.FOLLOWLOCATION, False)
        handle.setopt(pycurl.MAXFILESIZE_LARGE, limits.max_bytes)
        handle.setopt(pycurl.NOSIGNAL, True)
        handle.setopt(pycurl.BUFFERSIZE, RECEIVE_BYTES)
        # Both, also where one is missing: what libcurl and pycurl would take of their own may be another system's.
        authorities = limits.authorities or Authorities(None, None)
        _set_or_unset(handle, pycurl.CAINFO, authorities.file)
        _set_or_unset(handle, pycurl.CAPATH, authorities.folder)
        # What the environment says of proxies is not for a crawler's many hosts, and would get round the address check.
        handle.setopt(pycurl.PROXY, limits.proxy or "")
        login = os.environ.get(PROXY_LOGIN_VARIABLE)
        if limits.proxy is not None and login:
            handle.setopt(pycurl.PROXYUSERPWD, login)
        handle.setopt(pycurl.OPENSOCKETFUNCTION, self._open_socket)
        handle.setopt(pycurl.WRITEHEADER, self._header)
        handle.setopt(pycurl.WRITEFUNCTION, self._on_body)

    def _open_socket(self, _purpose: int, address: Any) -> Any:
        """Called by libcurl after DNS, for every hop: so neither a redirect nor DNS rebinding gets round it."""
        family, kind, protocol, target = address
        host = target[0].decode() if isinstance(target[0], bytes) else str(target[0])
        if self._limits.proxy is None and not self._may_be_asked(family, host):
            self._address_refused = True
            return pycurl.SOCKET_BAD
        try:
            opened = socket.socket(family, kind, protocol)
            os.close(os.dup(opened.fileno()))  # pycurl makes such a copy, and does not tell when it cannot
        except OSError as error:
            if is_shortage(error):
                self._fault = shortage(error)
            return pycurl.SOCKET_BAD
        return opened

    def _may_be_asked(self, family: int, host: str) -> bool:
        return family in (socket.AF_INET, socket.AF_INET6) and may_be_asked(host, self._limits.allowed_networks)

    def _header_values(self, name: bytes) -> list[str]:
        """The values of a header in the answer; what came before the answer (1xx) does not count."""
        block = self._header.getvalue()
        block = block[max(0, block.rfind(b"\nHTTP/")) :]
        if name not in block.lower():
            return []
        pairs = (line.partition(b":") for line in block.splitlines())
        return [value.decode("latin-1").strip() for key, _, value in pairs if key.strip().lower() == name]

    def _on_body(self, chunk: bytes) -> int | None:
        received = self._body.size_bytes + len(chunk)
        if received > self._limits.max_bytes:
            self._too_large = True
            return -1
        now = time.monotonic()
        self._body_began = self._body_began or now
        self._is_slow = (
            now - self._body_began > LOW_SPEED_TIME_S and received < (now - self._body_began) * LOW_SPEED_BYTES_S
        )
        if self._is_slow:
            return -1
        try:
            self._body.append(chunk)
        except DiptychError as error:
            self._fault = error
            return -1
        return None


def _set_or_unset(handle: pycurl.Curl, option: int, value: str | None) -> None:
    if value is None:
        handle.unsetopt(option)
    else:
        handle.setopt(option, value)


def resolve_entry(url: SplitResult, addresses: Addresses) -> str:
    """libcurl's `host:port:address,…`. Source: https://curl.se/libcurl/c/CURLOPT_RESOLVE.html"""
    has_port = not url.netloc.endswith("]") and ":" in url.netloc
    place = url.netloc if has_port else f"{url.netloc}:{443 if url.scheme == 'https' else 80}"
    quoted = (f"[{address}]" if ":" in address else address for address in addresses)
    return f"{place}:{','.join(quoted)}"


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
