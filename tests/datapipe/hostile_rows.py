"""The URLs and captions of a hostile list, each with what it must become."""

from hostile_kinds import KINDS

from datapipe.status import SampleStatus as Status

ESCAPES = "\x1b[31mred\x1b]0;title\x07\x9b2J\r\x08"

# `<self>` stands for 127.0.0.1 and the web's port, `<port>` for the port.
URLS: dict[str, tuple[str | None, Status]] = {
    "null": (None, Status.URL_EMPTY),
    "empty": ("", Status.URL_EMPTY),
    "blank": (" \t\n", Status.URL_EMPTY),
    "word": ("no url", Status.URL_MALFORMED),
    "no_scheme": ("<self>/plain", Status.URL_MALFORMED),
    "same_scheme": ("//<self>/plain", Status.URL_MALFORMED),
    "absolute_path": ("/etc/passwd", Status.URL_MALFORMED),
    "windows_path": (r"C:\pictures\a.jpg", Status.URL_MALFORMED),
    "option": ("--output=owned", Status.URL_MALFORMED),
    "shell": ("; touch owned #", Status.URL_MALFORMED),
    "escapes": (ESCAPES, Status.URL_MALFORMED),
    "no_host": ("http://", Status.URL_MALFORMED),
    "no_host_but_path": ("http:///plain", Status.URL_MALFORMED),
    "one_slash": ("http:/<self>/plain", Status.URL_MALFORMED),
    "blank_in_host": ("http://a b/", Status.URL_MALFORMED),
    "percent_in_host": ("http://a%0ab.invalid/", Status.URL_MALFORMED),
    "backslash_in_host": ("http://<self>\\@other.invalid/", Status.URL_MALFORMED),
    "newline": ("http://<self>/a\nb", Status.URL_MALFORMED),
    "header_injection": ("http://<self>/a HTTP/1.1\r\nX-Owned: 1\r\n\r\n", Status.URL_MALFORMED),
    "tab": ("http://<self>/a\tb", Status.URL_MALFORMED),
    "nul": ("http://<self>/\0", Status.URL_MALFORMED),
    "escape_in_path": ("http://<self>/" + ESCAPES, Status.URL_MALFORMED),
    "delete": ("http://<self>/\x7f", Status.URL_MALFORMED),
    "port_word": ("http://127.0.0.1:http/", Status.URL_MALFORMED),
    "port_65536": ("http://127.0.0.1:65536/", Status.URL_MALFORMED),
    "port_negative": ("http://127.0.0.1:-1/", Status.URL_MALFORMED),
    "port_0": ("http://127.0.0.1:0/", Status.CONNECTION_FAILED),
    "port_closed": ("http://127.0.0.1:1/", Status.CONNECTION_FAILED),
    "half_an_address": ("http://[::1/", Status.URL_MALFORMED),
    "address_of_the_future": ("http://[v1.a:b]/", Status.URL_MALFORMED),
    "20000_letters": ("http://<self>/" + "a" * 20_000, Status.URL_MALFORMED),
    "20000_letters_of_host": ("http://" + "a" * 20_000 + ".invalid/", Status.URL_MALFORMED),
    "user": ("http://user@<self>/plain", Status.URL_MALFORMED),
    "user_and_password": ("http://user:secret@<self>/plain", Status.URL_MALFORMED),
    "empty_user": ("http://@<self>/plain", Status.URL_MALFORMED),
    "letter_that_becomes_a_slash": ("http://\u2100.invalid/", Status.URL_MALFORMED),
    "javascript": ("javascript:alert(1)", Status.URL_MALFORMED),
    "mail": ("mailto:a@b.invalid", Status.URL_MALFORMED),
    "data": ("data:image/png;base64,AAAA", Status.SCHEME_REFUSED),
    "file": ("file:///etc/passwd", Status.SCHEME_REFUSED),
    "ftp": ("ftp://<self>/plain", Status.SCHEME_REFUSED),
    "gopher": ("gopher://<self>/_GET", Status.SCHEME_REFUSED),
    "s3": ("s3://bucket/a.jpg", Status.SCHEME_REFUSED),
    "blob": ("blob:http://<self>/plain", Status.SCHEME_REFUSED),
    "https_without_tls": ("https://<self>/plain", Status.TLS_FAILED),
    "private": ("http://127.0.0.2:<port>/plain", Status.ADDRESS_REFUSED),
    "private_metadata": ("http://169.254.169.254/latest/meta-data/", Status.ADDRESS_REFUSED),
    "private_hex": ("http://0x7f000002:<port>/plain", Status.ADDRESS_REFUSED),
    "private_decimal": ("http://2130706434:<port>/plain", Status.ADDRESS_REFUSED),
    "private_octal": ("http://0177.0.0.2:<port>/plain", Status.ADDRESS_REFUSED),
    "private_short": ("http://127.2:<port>/plain", Status.ADDRESS_REFUSED),
    "private_mapped": ("http://[::ffff:7f00:2]:<port>/plain", Status.ADDRESS_REFUSED),
    "private_full_width": ("http://１２７.0.0.2:<port>/plain", Status.ADDRESS_REFUSED),
    "private_ideographic_dots": ("http://127。0。0。2:<port>/plain", Status.ADDRESS_REFUSED),
    "private_in_circles": ("http://①②⑦.⓪.⓪.②:<port>/plain", Status.ADDRESS_REFUSED),
    "lost_name": ("http://no-such-host.invalid/", Status.HOST_NOT_FOUND),
    "lost_name_with_dot": ("http://no-such-host.invalid./", Status.HOST_NOT_FOUND),
    "lost_german_name": ("http://bücher.invalid/größe.jpg", Status.HOST_NOT_FOUND),
    "lost_russian_name": ("http://пример.invalid/", Status.HOST_NOT_FOUND),
    "lost_arabic_name": ("http://مثال.invalid/", Status.HOST_NOT_FOUND),
    "lost_name_with_underscore": ("http://a_b.invalid/", Status.HOST_NOT_FOUND),
    "good": ("http://<self>/plain", Status.SUCCESS),
    "good_in_capitals": ("HTTP://<self>/plain", Status.SUCCESS),
    "good_in_blanks": ("  http://<self>/plain\n", Status.SUCCESS),
    "good_with_fragment": ("http://<self>/plain#../../x", Status.SUCCESS),
    "good_with_query": ("http://<self>/plain?a=b&c[]=ü&d=%20|%zz", Status.SUCCESS),
    "good_with_8000_letters": ("http://<self>/plain?" + "a" * 8000, Status.SUCCESS),
    "good_in_other_letters": ("http://<self>/größe", Status.SUCCESS),
    "good_encoded": ("http://<self>/gr%C3%B6%C3%9Fe", Status.SUCCESS),
    "good_with_dots": ("http://<self>/x/../plain", Status.SUCCESS),
    "good_hex": ("http://0x7f000001:<port>/plain", Status.SUCCESS),
    "good_short": ("http://127.1:<port>/plain", Status.SUCCESS),
    "good_full_width": ("http://１２７.0.0.1:<port>/plain", Status.SUCCESS),
    "shell_in_path": ("http://<self>/$(touch owned)`touch owned`;touch owned", Status.HTTP_404),
    "control_1_in_path": ("http://<self>/\x9b31m\u202e\u2028", Status.HTTP_404),
    "path_of_a_file": ("http://<self>/../../../../etc/passwd", Status.HTTP_404),
    "encoded_nul": ("http://<self>/a.jpg%00.html", Status.HTTP_404),
}

CAPTIONS: dict[str, str | None] = {
    "null": None,
    "empty": "",
    "blank": " \t ",
    "tabs": "a\tb\t\tc",
    "newlines": "a\nb\r\nc\rd\n\n",
    "nul": "a\0b\0",
    "every_control": "".join(map(chr, range(32))) + "\x7f" + "".join(map(chr, range(0x80, 0xA0))),
    "escapes": ESCAPES,
    "quotes": "\"a\" 'b' `c` “d” «e» \\\" \"\" '''",
    "separators": "a,b;c|d",
    "shell": "$(touch owned) `touch owned` ; touch owned | touch owned && touch owned\ntouch owned",
    "markup": "[red]a[/red] [bold] \\[x] {b} %s %(x)s {0} <b>&amp;</b>",
    "path": "../../../../owned",
    "one_megabyte": "größer " * 131_072,
    "latin": "Ångström, naïve café, Øre, ß",
    "greek_and_cyrillic": "Ελλάδα, Россия",
    "hebrew_and_arabic": "שלום مرحبا",
    "indic": "नमस्ते வணக்கம் ಕನ್ನಡ",
    "east_asian": "汉字 漢字 かな カナ 한글 한글",
    "thai_and_khmer": "สวัสดี សួស្តី",
    "beyond_the_basic_plane": "𝔘𐍈𒀀𓀀🀄",
    "emoji": "👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 🇩🇪",
    "combining": "Z̷̢͎̈́a̴l̵g̶o̷ e\u0301 é",
    "directions": "\u202ereversed\u202c \u2066isolated\u2069",
    "invisible": "\ufeffbom \u200bzero\u200d \u00a0 \u2028line \u2029paragraph \xad",
    "no_characters": "\ufffe\uffff\U0010ffff\ufdd0",
}
# JSON can hold halves of surrogate pairs, which no UTF-8 has: each becomes a question mark.
JSON_CAPTIONS = {"lone_high": ("a\ud800b", "a?b"), "lone_low": ("\udfff", "?"), "swapped": ("\udc00\ud800", "??")}


def hostile_rows(base: str, busy_base: str, busy: set[str]) -> list[dict[str, str | None]]:
    """One row for each kind of answer, form of URL and caption: `url`, `caption`, and `kind` with its name.

    Kinds in `busy` are asked at a web of their own.
    """
    answers = [(f"answer {name}", f"{busy_base if name in busy else base}/{name}", ESCAPES) for name in KINDS]
    urls = [(f"url {name}", at(url, base), ESCAPES) for name, (url, _) in URLS.items()]
    captions = [(f"caption {name}", f"{base}/plain", caption) for name, caption in CAPTIONS.items()]
    return [{"kind": kind, "url": url, "caption": caption} for kind, url, caption in [*answers, *urls, *captions]]


def at(text: str | None, base: str) -> str | None:
    """The text with the web's own host and port in it."""
    host = base.removeprefix("http://")
    return text and text.replace("<self>", host).replace("<port>", host.rpartition(":")[2])


def expected_statuses() -> dict[str, Status]:
    """What each row of `hostile_rows` must be counted under, by its kind."""
    return (
        {f"answer {name}": kind.status for name, kind in KINDS.items()}
        | {f"url {name}": status for name, (_, status) in URLS.items()}
        | {f"caption {name}": Status.SUCCESS for name in CAPTIONS}
    )
