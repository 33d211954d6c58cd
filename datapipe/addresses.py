"""Says which URLs and which network addresses may be asked."""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote, urlsplit, urlunsplit

from datapipe.status import SampleStatus

NOT_IN_HOST_NAMES = frozenset(' "#%/:<>?@[\\]^`{|}')
MAX_URL_CHARACTERS = 8192  # past this, servers refuse them anyway
NAT64 = ipaddress.ip_network("64:ff9b::/96")  # RFC 6052: the last four bytes are an IPv4 address
GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")  # RFC 4291, 2.4: all other IPv6 is local, special or unassigned
IETF_ASSIGNMENTS = ipaddress.ip_network("192.0.0.0/24")  # RFC 6890; a cloud's metadata lies there

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a URL is not asked."""

    status: SampleStatus
    message: str


def clean_url(url: str | None) -> str | Refusal:
    """The URL as it goes over the wire: ASCII, percent-encoded, without fragment; or why it does not go."""
    text = (url or "").strip()
    if not text:
        return Refusal(SampleStatus.URL_EMPTY, "the URL is empty")
    if len(text) > MAX_URL_CHARACTERS:
        return Refusal(SampleStatus.URL_MALFORMED, f"the URL has more than {MAX_URL_CHARACTERS} characters")
    if any(character < " " or character == "\x7f" for character in text):
        return Refusal(SampleStatus.URL_MALFORMED, "the URL has control characters")
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        return Refusal(SampleStatus.URL_MALFORMED, "the URL cannot be parsed")
    if parts.scheme not in ("http", "https"):
        # A text without any scheme is no URL; one with another scheme is a URL that we do not ask.
        status = SampleStatus.SCHEME_REFUSED if "://" in text or parts.scheme == "data" else SampleStatus.URL_MALFORMED
        return Refusal(status, "only http and https are asked")
    if not host:
        return Refusal(SampleStatus.URL_MALFORMED, "the URL has no host")
    if parts.username is not None:
        return Refusal(SampleStatus.URL_MALFORMED, "the URL carries credentials, which are not sent")
    try:
        ascii_host = _ascii_host(host)
    except ValueError:
        return Refusal(SampleStatus.URL_MALFORMED, "the URL's host is not a name")
    netloc = ascii_host if port is None else f"{ascii_host}:{port}"
    # `%` stays: what is encoded already is not encoded again.
    path = quote(parts.path, safe="/%:@!$&'()*+,;=~-._")
    query = quote(parts.query, safe="/%:@!$&'()*+,;=~-._?[]|")
    return urlunsplit((parts.scheme, netloc, path or "/", query, ""))


def parse_networks(texts: Sequence[str]) -> tuple[Network, ...]:
    """The networks of `build.allow_private_addresses`."""
    return tuple(ipaddress.ip_network(text, strict=False) for text in texts)


def may_be_asked(address: str, allowed: Sequence[Network]) -> bool:
    """Whether a socket may be opened to the address: a public one, or one in an allowed network."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    candidates = [parsed, *_embedded(parsed)]
    if any(candidate in network for network in allowed for candidate in candidates):
        return True
    return all(_is_public(candidate) for candidate in candidates[1:] or candidates)


def _is_public(address: Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address) and address not in GLOBAL_UNICAST:
        return False
    return address.is_global and not address.is_multicast and address not in IETF_ASSIGNMENTS


def _embedded(address: Address) -> list[ipaddress.IPv4Address]:
    """The IPv4 address that an IPv6 one leads to, by mapping, 6to4 or NAT64."""
    if isinstance(address, ipaddress.IPv4Address):
        return []
    if address in NAT64:
        return [ipaddress.IPv4Address(address.packed[-4:])]
    inner = address.ipv4_mapped or address.sixtofour
    return [inner] if inner else []


def _ascii_host(host: str) -> str:
    if ":" in host:
        return f"[{ipaddress.IPv6Address(host.partition('%')[0])}]"
    # IDNA maps some letters to characters that no host name has.
    name = host if host.isascii() else host.encode("idna").decode("ascii")
    if not name.isprintable() or any(character in NOT_IN_HOST_NAMES for character in name):
        raise ValueError("a character that no host name has")
    return name
