"""Finds passwords, keys and signatures among the keys and values of a config, which is stored and shown."""

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

SECRET_WORDS = frozenset({"pwd", "sig", "credential", "credentials"})
SECRET_ENDS = ("password", "passwd", "passphrase", "secret", "token", "signature", "apikey", "accesskey")
KEYS_THAT_OPEN = frozenset({"api", "access", "secret", "private", "account", "auth"})  # an api_key, a private_key, …
TOLD_TO_ALL = frozenset({"user_agent_token"})  # every host that is asked gets to see it
PASSWORD = re.compile(r"://[^/@\s]*:[^/@\s]+@")
# Of hdfs:// and abfs:// what stands there is no secret; of the web it is a login or a token.
WEB_USER = re.compile(r"(?:https?|socks\w*|ftps?)://[^/@\s]+@", re.IGNORECASE)
# A bucket's name has neither; a secret key has slashes.
S3_LOGIN = re.compile(r"s3a?://(?:[^/\s]*@|[^/@\s]*:[^@\s]+@)", re.IGNORECASE)
PARAMETER = re.compile(r"[?&;]([\w.-]+)=[^&;\s]")
WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")
USERS_OWN_NAMES = frozenset({"where", "classes", "clip_scores"})  # sections whose keys are the user's columns or labels

KeyPath = tuple[str | int, ...]


def secret_path(value: Any, path: KeyPath = ()) -> KeyPath | None:
    """Where the first secret in nested dicts and lists stands; None where there is none."""
    return next(_secret_paths(value, path), None)


def is_secret_name(name: str) -> bool:
    """Whether what has this name is a secret: `api_key`, `accessToken`, `X-Amz-Signature`."""
    words = [word.lower() for word in WORD.findall(name)]
    if not words or name in TOLD_TO_ALL:
        return False
    opens = len(words) > 1 and words[-1] == "key" and words[-2] in KEYS_THAT_OPEN
    return opens or words[-1] in SECRET_WORDS or words[-1].endswith(SECRET_ENDS)


def is_secret_value(text: str) -> bool:
    """Whether an address in the text has a login or a signature in it."""
    plain = unquote(text)
    if any(login.search(each) for login in (PASSWORD, WEB_USER, S3_LOGIN) for each in (text, plain)):
        return True
    return any(is_secret_name(name) for each in (text, plain) for name in PARAMETER.findall(each))


def _secret_paths(value: Any, path: KeyPath) -> Iterator[KeyPath]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _secret_paths(item, (*path, key))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _secret_paths(item, (*path, index))
    elif _is_named_secret(value, path) or (isinstance(value, str) and is_secret_value(value)):
        yield path


def _is_named_secret(value: Any, path: KeyPath) -> bool:
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        return False
    names = [part for part in path if isinstance(part, str)]
    return USERS_OWN_NAMES.isdisjoint(names) and any(map(is_secret_name, names))
