"""The kinds of answers that a hostile web gives, each with the status that it must be counted under.

`<self>` in a redirect stands for the web's own host and port, `<port>` for the port. A build over them allows
127.0.0.1 alone, goes by the name of OUR_TOKEN, reads at most MAX_BYTES and follows at most MAX_REDIRECTS.
"""

import gzip
import struct
import zlib
from dataclasses import dataclass

from hostile_web import Handler, Visit, drip, endless
from pictures import picture

from datapipe.status import SampleStatus as Status

OUR_TOKEN = "birdbot"
MAX_BYTES = 1 << 20
MAX_REDIRECTS = 3
PHOTO = picture(0)
OTHER_PHOTO = picture(3)
OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"
SLOW_S = 0.05


@dataclass(frozen=True, slots=True)
class Kind:
    """How the web answers, what that counts as, and, where it is good, the bytes that count as received."""

    handler: Handler
    status: Status
    body: bytes = PHOTO


def body(data: bytes, status: Status, **headers: str) -> Kind:
    """An honest answer with this body."""
    return Kind(lambda visit: visit.answer(data, **headers), status, data)


def good(**headers: str) -> Kind:
    """The photo with these headers, which are no reason to leave it out."""
    return body(PHOTO, Status.SUCCESS, **headers)


def opt_out(*values: str, status: Status = Status.OPT_OUT) -> Kind:
    """The photo with as many X-Robots-Tag headers."""
    lines = b"".join(b"X-Robots-Tag: " + value.encode() + b"\r\n" for value in values)
    return raw(OK + lines + b"Content-Length: %d\r\n\r\n" % len(PHOTO) + PHOTO, status)


def raw(data: bytes, status: Status, received: bytes = PHOTO) -> Kind:
    """These bytes, then the end of the connection."""
    return Kind(lambda visit: visit.cut(data), status, received)


def hang_after(data: bytes) -> Kind:
    """These bytes, then silence."""
    return after(data, lambda visit: visit.hang(), Status.TIMEOUT)


def reset_after(data: bytes) -> Kind:
    """These bytes, then a TCP reset."""
    return after(data, lambda visit: visit.reset(), Status.PROTOCOL_ERROR)


def endless_after(data: bytes, repeated: bytes, status: Status, every_s: float = 0.0) -> Kind:
    """These bytes, then others again and again without end."""
    return after(data, lambda visit: visit.repeat(repeated, every_s), status)


def after(data: bytes, rest: Handler, status: Status) -> Kind:
    def handler(visit: Visit) -> None:
        visit.send(data)
        rest(visit)

    return Kind(handler, status)


def code(line: str, status: Status, **headers: str) -> Kind:
    """An error page under this status line."""
    return Kind(lambda visit: visit.answer(b"<html>no</html>", status=line, **headers), status)


def redirect(location: str, status: Status, line: str = "302 Found") -> Kind:
    """A redirect to there."""
    return Kind(lambda visit: visit.answer(status=line, Location=at(visit, location)), status)


def at(visit: Visit, text: str) -> str:
    return text.replace("<self>", "127.0.0.1:<port>").replace("<port>", str(visit.port))


def with_length(length: bytes, data: bytes = PHOTO) -> bytes:
    return OK + b"Content-Length: " + length + b"\r\n\r\n" + data


def chunks(data: bytes, size: int) -> bytes:
    parts = (data[start : start + size] for start in range(0, len(data), size))
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)


def padded(length: int) -> bytes:
    """The photo, followed by zeros: a JPEG may have something after its end."""
    return PHOTO.ljust(length, b"\0")


def png_claiming(width: int, height: int) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


def gzip_bomb() -> bytes:
    """Half a megabyte that unpacks to half a gigabyte."""
    return gzip.compress(b"\0" * (1 << 20)) * 512


def slow_hop(visit: Visit) -> None:
    """Each hop takes long, if not too long for a request of its own; together they do."""
    visit.is_closing.wait(0.6)
    visit.answer(status="302 Found", Location="/slow_chain")


def recover(visit: Visit) -> None:
    """Resets the first request of the try and answers the second."""
    visit.answer(PHOTO) if visit.earlier else visit.reset()


def lie_about_keep_alive(visit: Visit) -> None:
    """Promises to keep the connection and closes it."""
    visit.answer(PHOTO, Connection="keep-alive", Keep_Alive="timeout=600")
    visit.close()


TIMES = {
    "hang_at_once": hang_after(b""),
    "hang_in_status_line": hang_after(b"HTTP/1.1 2"),
    "hang_in_headers": hang_after(OK + b"Content-Type: image/jp"),
    "hang_before_body": hang_after(with_length(b"9000", b"")),
    "hang_in_body": hang_after(with_length(b"9000", PHOTO[:300])),
    "hang_without_length": hang_after(OK + b"\r\n" + PHOTO),
    "hang_in_chunk": hang_after(CHUNKED + b"9000\r\n" + PHOTO[:300]),
    "drip_body": Kind(drip, Status.TIMEOUT),
    "drip_headers": endless_after(OK + b"X-Slow: ", b"y", Status.TIMEOUT, SLOW_S),
    "drip_chunks": endless_after(CHUNKED, b"1\r\nx\r\n", Status.TIMEOUT, SLOW_S),
    "drip_continue": endless_after(b"", b"HTTP/1.1 100 Continue\r\n\r\n", Status.TIMEOUT, SLOW_S),
    "slow_chain": Kind(slow_hop, Status.TIMEOUT),
}
ENDLESS = {
    "endless_body": Kind(endless, Status.TOO_LARGE),
    "endless_chunks": endless_after(CHUNKED, chunks(b"x" * 5000, 1000), Status.TOO_LARGE),
    "endless_headers": endless_after(OK, b"X-More: " + b"y" * 1000 + b"\r\n", Status.PROTOCOL_ERROR),
    "endless_header_line": endless_after(OK + b"X-More: ", b"y" * 1000, Status.PROTOCOL_ERROR),
    "endless_status_line": endless_after(b"HTTP/1.1 200 ", b"y" * 1000, Status.PROTOCOL_ERROR),
    "endless_informational": endless_after(b"", b"HTTP/1.1 102 Wait\r\nX: y\r\n\r\n" * 20, Status.PROTOCOL_ERROR),
    "endless_chunk_size": endless_after(CHUNKED, b"0" * 1000, Status.PROTOCOL_ERROR),
    "endless_chunk_extension": endless_after(CHUNKED + b"5;x=", b"y" * 5000, Status.TIMEOUT),
    "endless_trailers": endless_after(CHUNKED + b"0\r\n", b"X-More: " + b"y" * 1000 + b"\r\n", Status.PROTOCOL_ERROR),
}
CODINGS = {
    "gzip_bomb": body(gzip_bomb(), Status.NOT_AN_IMAGE, Content_Encoding="gzip"),
    "gzip_though_identity_was_asked": body(gzip.compress(PHOTO), Status.NOT_AN_IMAGE, Content_Encoding="gzip"),
    "gzip_said_and_not_done": good(Content_Encoding="gzip"),
    "identity": good(Content_Encoding="identity"),
    "unknown_coding": good(Content_Encoding="x-rot13"),
    "gzip_transfer": raw(
        OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n" + chunks(gzip_bomb(), 60_000) + LAST_CHUNK,
        Status.PROTOCOL_ERROR,
    ),
}
LENGTHS = {
    "length_too_long": raw(with_length(b"%d" % (len(PHOTO) + 1)), Status.PROTOCOL_ERROR),
    "length_too_short": raw(with_length(b"%d" % (len(PHOTO) - 99)), Status.BROKEN_IMAGE),
    "length_negative": raw(with_length(b"-5"), Status.PROTOCOL_ERROR),
    "length_garbage": raw(with_length(b"many"), Status.PROTOCOL_ERROR),
    "length_huge": raw(with_length(b"99999999999"), Status.TOO_LARGE),
    "length_beyond_64_bits": raw(with_length(b"9" * 40), Status.TOO_LARGE),
    "length_zero_and_more": raw(with_length(b"0"), Status.EMPTY_BODY),
    "no_length": raw(OK + b"\r\n" + PHOTO, Status.SUCCESS),
    "no_length_and_cut": raw(OK + b"\r\n" + PHOTO[:-99], Status.BROKEN_IMAGE),
    "no_body": raw(OK + b"\r\n", Status.EMPTY_BODY),
    "empty_body": body(b"", Status.EMPTY_BODY),
    "at_the_limit": body(padded(MAX_BYTES), Status.SUCCESS),
    "above_the_limit": body(padded(MAX_BYTES + 1), Status.TOO_LARGE),
    "above_the_limit_without_length": raw(OK + b"\r\n" + padded(MAX_BYTES + 1), Status.TOO_LARGE),
    "above_the_limit_in_chunks": raw(CHUNKED + chunks(padded(MAX_BYTES + 1), 60_000) + LAST_CHUNK, Status.TOO_LARGE),
}
CHUNKING = {
    "chunks_of_one_byte": raw(CHUNKED + chunks(PHOTO, 1) + LAST_CHUNK, Status.SUCCESS),
    "chunks_with_extension_and_trailer": raw(
        CHUNKED + chunks(PHOTO, 600).replace(b"258\r\n", b"258;a=b\r\n", 1) + b"0\r\nX-End: 1\r\n\r\n", Status.SUCCESS
    ),
    "chunks_and_length": raw(
        OK + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks(PHOTO, 500) + LAST_CHUNK,
        Status.SUCCESS,
    ),
    "chunk_size_garbage": raw(CHUNKED + b"zz\r\n" + PHOTO, Status.PROTOCOL_ERROR),
    "chunk_size_negative": raw(CHUNKED + b"-5\r\n" + PHOTO, Status.PROTOCOL_ERROR),
    "chunk_size_beyond_64_bits": raw(CHUNKED + b"f" * 20 + b"\r\n" + PHOTO, Status.PROTOCOL_ERROR),
    "chunk_too_long": raw(CHUNKED + b"5\r\n" + PHOTO, Status.PROTOCOL_ERROR),
    "chunk_cut": raw(CHUNKED + b"9000\r\n" + PHOTO[:300], Status.PROTOCOL_ERROR),
    "chunks_without_end": raw(CHUNKED + chunks(PHOTO, 500), Status.PROTOCOL_ERROR),
    "chunks_empty": raw(CHUNKED + LAST_CHUNK, Status.EMPTY_BODY),
}
BREAKS = {
    "reset_at_once": reset_after(b""),
    "reset_in_headers": reset_after(OK + b"Content-Type: im"),
    "reset_in_body": reset_after(with_length(b"9000", PHOTO[:300])),
    "close_at_once": raw(b"", Status.PROTOCOL_ERROR),
    "close_in_status_line": raw(b"HTTP/1.", Status.PROTOCOL_ERROR),
    "close_in_headers": raw(OK + b"Content-Type: im", Status.PROTOCOL_ERROR),
    "reset_that_passes": Kind(recover, Status.SUCCESS),
}
SYNTAX = {
    "http_0_9": raw(PHOTO, Status.PROTOCOL_ERROR),
    "other_protocol": raw(b"SSH-2.0-OpenSSH_9.9\r\n", Status.PROTOCOL_ERROR),
    "icecast": raw(b"ICY 200 OK\r\n\r\n" + PHOTO, Status.PROTOCOL_ERROR),
    "status_garbage": raw(b"HTTP/1.1 abc OK\r\n\r\n" + PHOTO, Status.PROTOCOL_ERROR),
    "status_of_four_digits": raw(b"HTTP/1.1 2000 OK\r\n\r\n" + PHOTO, Status.SUCCESS),  # libcurl reads three
    "status_0": raw(b"HTTP/1.1 000 OK\r\n\r\n" + PHOTO, Status.PROTOCOL_ERROR),
    "version_9": raw(b"HTTP/9.9 200 OK\r\n\r\n" + PHOTO, Status.PROTOCOL_ERROR),
    "version_1_0": raw(b"HTTP/1.0 200 OK\r\n\r\n" + PHOTO, Status.SUCCESS),
    "status_without_words": raw(b"HTTP/1.1 200\r\n\r\n" + PHOTO, Status.SUCCESS),
    "line_feeds_alone": raw(b"HTTP/1.1 200 OK\nContent-Length: %d\n\n" % len(PHOTO) + PHOTO, Status.SUCCESS),
    "nul_in_header": raw(OK + b"X-Nul: a\0b\r\n\r\n" + PHOTO, Status.PROTOCOL_ERROR),
    "escapes_in_headers": raw(OK + b"X-Esc: \x1b[31m\x07\xff\xfe\r\n\r\n" + PHOTO, Status.SUCCESS),
    "folded_header": raw(OK + b"X-Long: a\r\n b\r\n\r\n" + PHOTO, Status.SUCCESS),
    "escapes_in_status": raw(b"HTTP/1.1 404 \x1b[31mgone\x07\r\n\r\n", Status.HTTP_404),
    "switching_protocols": raw(b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\n\r\n", Status.PROTOCOL_ERROR),
    "early_hints": raw(
        b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n" + with_length(b"%d" % len(PHOTO)), Status.SUCCESS
    ),
    "second_answer_ahead": Kind(
        lambda visit: visit.send(with_length(b"%d" % len(PHOTO)) + with_length(b"%d" % len(OTHER_PHOTO), OTHER_PHOTO)),
        Status.SUCCESS,
    ),
    "keep_alive_lie": Kind(lie_about_keep_alive, Status.SUCCESS),
}
HEADERS = {
    "plain": good(),
    "connection_close": good(Connection="close"),
    "cookies": good(Set_Cookie="who=you; Path=/; Max-Age=99999"),
    "html_type": good(Content_Type="text/html"),
    "no_sniff": good(Content_Type="application/octet-stream", X_Content_Type_Options="nosniff"),
    "path_in_disposition": good(Content_Disposition='attachment; filename="../../../tmp/owned.jpg"'),
    "other_service": good(Alt_Svc='h2="evil.invalid:443"; ma=99999'),
    "upgrade": good(Upgrade="h2c", Connection="Upgrade"),
    "refresh": good(Refresh="0; url=file:///etc/passwd"),
    "strict_transport": good(Strict_Transport_Security="max-age=99999; includeSubDomains"),
    "opt_out": opt_out("noai"),
    "opt_out_in_capitals": opt_out("NoImageAI"),
    "opt_out_in_a_list": opt_out("max-snippet: 5, noimageindex"),
    "opt_out_for_us": opt_out("BirdBot: noai"),
    "opt_out_among_several": opt_out("all", "otherbot: nofollow", f"{OUR_TOKEN}: index, noindex"),
    "opt_out_for_others": opt_out("otherbot: noai", status=Status.SUCCESS),
    "opt_out_for_several_others": opt_out("otherbot: noai", "thirdbot: noindex", "all", status=Status.SUCCESS),
    "opt_out_of_other_things": opt_out("nofollow, noarchive, notranslate", status=Status.SUCCESS),
    "opt_out_garbage": opt_out(":::, \x1b[31m, noaix", "", status=Status.SUCCESS),
}
CODES = {
    "204": raw(b"HTTP/1.1 204 No Content\r\n\r\n", Status.HTTP_OTHER),
    "206": code("206 Partial Content", Status.HTTP_OTHER, Content_Range="bytes 0-14/99999"),
    "226": code("226 IM Used", Status.HTTP_OTHER),
    "300": code("300 Multiple Choices", Status.HTTP_OTHER),
    "304": raw(b"HTTP/1.1 304 Not Modified\r\n\r\n", Status.HTTP_OTHER),
    "401": code("401 Unauthorized", Status.HTTP_4XX, WWW_Authenticate='Basic realm="you"'),
    "401_negotiate": code("401 Unauthorized", Status.HTTP_4XX, WWW_Authenticate="Negotiate"),
    "403": code("403 Forbidden", Status.HTTP_403),
    "404": code("404 Not Found", Status.HTTP_404),
    "404_with_opt_out": code("404 Not Found", Status.HTTP_404, X_Robots_Tag="noai"),
    "404_with_picture": Kind(lambda visit: visit.answer(PHOTO, status="404 Not Found"), Status.HTTP_404),
    "404_endless": endless_after(b"HTTP/1.1 404 Not Found\r\n\r\n", b"x" * 60_000, Status.TOO_LARGE),
    "407": code("407 Proxy Authentication Required", Status.HTTP_4XX, Proxy_Authenticate='Basic realm="you"'),
    "410": code("410 Gone", Status.HTTP_410),
    "418": code("418 I'm a teapot", Status.HTTP_4XX),
    "451": code("451 Unavailable For Legal Reasons", Status.HTTP_4XX),
    "429": code("429 Too Many Requests", Status.HTTP_429),
    "429_now": code("429 Too Many Requests", Status.HTTP_429, Retry_After="0"),
    "500": code("500 Oops", Status.HTTP_5XX),
    "503_now": code("503 Busy", Status.HTTP_5XX, Retry_After="0"),
    "503_garbage": code("503 Busy", Status.HTTP_5XX, Retry_After="\x1b[31msoon; rm -rf"),
    "503_negative": code("503 Busy", Status.HTTP_5XX, Retry_After="-99999999999"),
    "503_long_ago": code("503 Busy", Status.HTTP_5XX, Retry_After="Wed, 21 Oct 2015 07:28:00 GMT"),
    "503_no_day": code("503 Busy", Status.HTTP_5XX, Retry_After="Wed, 99 Foo 99999 99:99:99 GMT"),
    "999": code("999 Request Denied", Status.HTTP_OTHER),
}
BUSY = {
    "busy_for_ever": code("503 Busy", Status.HTTP_5XX, Retry_After="99999999999999999999999999"),
    "busy_until_9999": code("429 Too Many", Status.HTTP_429, Retry_After="Fri, 31 Dec 9999 23:59:59 GMT"),
}
"""Answers that hold up their whole host for a while, so that they are given one of their own."""

REDIRECTS = {
    "to_good": redirect("/plain", Status.SUCCESS),
    "301": redirect("/plain", Status.SUCCESS, "301 Moved"),
    "303": redirect("/plain", Status.SUCCESS, "303 See Other"),
    "307": redirect("/plain", Status.SUCCESS, "307 Temporary"),
    "308": redirect("/plain", Status.SUCCESS, "308 Permanent"),
    "to_whole_url": redirect("http://<self>/plain", Status.SUCCESS),
    "to_same_scheme": redirect("//<self>/plain#part", Status.SUCCESS),
    "to_relative": redirect("plain", Status.SUCCESS),
    "to_parent": redirect("../../../../plain", Status.SUCCESS),
    "to_blanks": redirect("/with blank", Status.SUCCESS),
    "to_utf_8": raw(b"HTTP/1.1 302 Found\r\nLocation: /gr\xc3\xb6\xc3\x9fe\r\n\r\n", Status.SUCCESS),
    "to_good_from_opt_out": Kind(
        lambda visit: visit.answer(status="302 Found", Location="/plain", X_Robots_Tag="noai"), Status.SUCCESS
    ),
    "to_opt_out": redirect("/opt_out", Status.OPT_OUT),
    "to_404": redirect("/404", Status.HTTP_404),
    "to_hex_of_allowed": redirect("http://0x7f000001:<port>/plain", Status.SUCCESS),
    "chain_at_the_limit": redirect("/chain_2", Status.SUCCESS),
    "chain_2": redirect("/chain_1", Status.SUCCESS),
    "chain_1": redirect("/plain", Status.SUCCESS),
    "chain_too_long": redirect("/chain_at_the_limit", Status.TOO_MANY_REDIRECTS),
    "loop": redirect("/loop", Status.TOO_MANY_REDIRECTS),
    "loop_of_two": redirect("/loop_back", Status.TOO_MANY_REDIRECTS),
    "loop_back": redirect("/loop_of_two", Status.TOO_MANY_REDIRECTS),
    "loop_that_grows": Kind(
        lambda visit: visit.answer(status="302 Found", Location=visit.path + "?x" * 100), Status.TOO_MANY_REDIRECTS
    ),
    "to_endless_body": redirect("/endless_body", Status.TOO_LARGE),
    "endless_redirect": endless_after(
        b"HTTP/1.1 302 Found\r\nLocation: /plain\r\n\r\n", b"x" * 60_000, Status.TOO_LARGE
    ),
    "nowhere": code("302 Found", Status.HTTP_OTHER),
    "to_nothing": redirect("", Status.HTTP_OTHER),
    "to_no_host": redirect("http://", Status.URL_MALFORMED),
    "to_no_port": redirect("http://127.0.0.1:99999/", Status.URL_MALFORMED),
    "to_half_an_address": redirect("http://[::1/", Status.URL_MALFORMED),
    "to_secrets": redirect("http://user:secret@<self>/plain", Status.SUCCESS),  # asked without them
    "to_20000_letters": redirect("/" + "a" * 20_000, Status.URL_MALFORMED),
    "to_tab": redirect("http://<self>/a\tb", Status.URL_MALFORMED),
    "to_escape": redirect("http://<self>/\x1b[31m", Status.URL_MALFORMED),
    "to_lost_name": redirect("http://no-such-host.invalid/", Status.HOST_NOT_FOUND),
    "to_closed_port": redirect("http://127.0.0.1:1/", Status.CONNECTION_FAILED),
    "to_no_tls": redirect("https://<self>/plain", Status.TLS_FAILED),
}
REDIRECTS |= {
    f"to_{scheme.partition(':')[0]}": redirect(scheme, Status.SCHEME_REFUSED)
    for scheme in (
        "file:///etc/passwd",
        "ftp://<self>/plain",
        "gopher://<self>/_GET",
        "dict://<self>/d:x",
        "ldap://<self>/",
        "smb://<self>/share",
        "ws://<self>/plain",
        "data:image/png;base64,AAAA",
    )
}
# Private, each in its own spelling; 127.0.0.1 is allowed, 127.0.0.2 is not.
PRIVATE_HOSTS = (
    "10.0.0.1",
    "172.16.0.1",
    "192.168.0.1",
    "100.64.0.1",
    "169.254.169.254",
    "192.0.0.192",
    "0.0.0.0",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "127.0.0.2",
    "0x7f000002",
    "0x7f.0.0.2",
    "2130706434",
    "0177.0.0.2",
    "017700000002",
    "127.2",
    "127.0.2",
    "[::]",
    "[::1]",
    "[::ffff:127.0.0.2]",
    "[::ffff:7f00:2]",
    "[::ffff:169.254.169.254]",
    "[::127.0.0.2]",
    "[64:ff9b::7f00:2]",
    "[2002:7f00:2::]",
    "[fe80::1]",
    "[fe80::1%25eth0]",
    "[fd00:ec2::254]",
    "[ff02::1]",
)
REDIRECTS |= {
    f"to_private_{number}": redirect(f"http://{host}:<port>/plain", Status.ADDRESS_REFUSED)
    for number, host in enumerate(PRIVATE_HOSTS)
}
BODIES = {
    "html": body(b"<!doctype html><title>Gone</title>", Status.NOT_AN_IMAGE, Content_Type="image/jpeg"),
    "json": body(b'{"error": "\x1b[31m"}', Status.NOT_AN_IMAGE, Content_Type="image/png"),
    "svg": body(b'<svg xmlns="http://www.w3.org/2000/svg"/>', Status.NOT_AN_IMAGE, Content_Type="image/svg+xml"),
    "pdf": body(b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n<<>>\nendobj\n", Status.NOT_AN_IMAGE),
    "eps": body(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) run\n", Status.NOT_AN_IMAGE),
    "shell": body(b"#!/bin/sh\ntouch owned\n", Status.NOT_AN_IMAGE, Content_Type="image/gif"),
    "zeros": body(b"\0" * 5000, Status.NOT_AN_IMAGE),
    "one_byte": body(b"\xff", Status.NOT_AN_IMAGE),
    "pixel_bomb": body(png_claiming(60_000, 60_000), Status.TOO_MANY_PIXELS),
    "png_without_pixels": body(png_claiming(500, 500), Status.BROKEN_IMAGE),
    "cut_picture": body(PHOTO[:-99], Status.BROKEN_IMAGE),
    "jpeg_and_zip": body(PHOTO + b"PK\x03\x04" + b"\0" * 500, Status.SUCCESS),
    "jpeg_and_script": body(PHOTO + b"<script>alert(1)</script>", Status.SUCCESS),
}
KINDS: dict[str, Kind] = (
    TIMES | ENDLESS | CODINGS | LENGTHS | CHUNKING | BREAKS | SYNTAX | HEADERS | CODES | BUSY | REDIRECTS | BODIES
)
# Where redirects lead; no kinds of their own.
TARGETS = {"/with%20blank": good(), "/gr%C3%B6%C3%9Fe": good()}
