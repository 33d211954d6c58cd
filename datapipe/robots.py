"""Reads `X-Robots-Tag` headers and says whether the publisher opts out of this use."""

from collections.abc import Iterable

# Directives that take a value after a colon, so that what stands before it is not a crawler's name.
VALUED_DIRECTIVES = frozenset({"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"})


def is_opt_out(headers: Iterable[str], disallowed: Iterable[str], user_agent_token: str | None) -> bool:
    """Whether one of the `X-Robots-Tag` values forbids the use to everybody or to us.

    A value is `directive, directive…`, or `crawler: directive…` for that crawler alone (as img2dataset reads it).
    """
    refused = {directive.strip().lower() for directive in disallowed}
    if "noindex" in refused:
        refused.add("none")  # "equivalent to noindex, nofollow", as the header's inventors say
    token = user_agent_token.strip().lower() if user_agent_token else None
    for value in headers:
        name, colon, rest = value.lower().partition(":")
        is_named = bool(colon) and "," not in name and name.strip() not in VALUED_DIRECTIVES
        if is_named and name.strip() != token:
            continue
        directives = (rest if is_named else value.lower()).split(",")
        if any(directive.strip() in refused for directive in directives):
            return True
    return False
