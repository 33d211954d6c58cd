"""Finds the certificates of the authorities that https servers are checked against."""

import os
import re
import ssl
from dataclasses import dataclass
from pathlib import Path

from infra.errors import MachineError

# Where Linux distributions keep them, for a Python that was built for another one. Of themselves, the newer wheels of
# pycurl look at the first two and libcurl at the second.
SYSTEM_FILES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem")
# OpenSSL looks a certificate up by the hash of its name, and sees no other file of a folder (openssl-rehash(1)).
HASHED_NAME = re.compile(r"[0-9a-f]{8}\.[0-9]+")


@dataclass(frozen=True, slots=True)
class Authorities:
    """A file in PEM format, a folder that OpenSSL has hashed, or both."""

    file: str | None
    folder: str | None

    def __str__(self) -> str:
        return " and ".join(filter(None, (self.file, self.folder)))


def find_authorities() -> Authorities | None:
    """Those that Python's TLS uses, else the system's; None where there are none.

    SSL_CERT_FILE and SSL_CERT_DIR, if set, are not passed over for the system's.
    """
    paths = ssl.get_default_verify_paths()
    folder = paths.capath if paths.capath and _is_hashed(Path(paths.capath)) else None
    if paths.cafile or folder:  # either may be None, whatever typeshed says
        return Authorities(paths.cafile, folder)
    if not _asked():
        for file in SYSTEM_FILES:
            if Path(file).is_file():
                return Authorities(file, None)
    return None


def unreadable(authorities: Authorities | None) -> MachineError:
    """The user's error for certificates that are not there or are none."""
    what = str(authorities) if authorities else ", ".join(_asked()) or "there are none where systems keep them"
    return MachineError(
        f"The certificates of the authorities cannot be read: {what}.",
        "It must be a file in PEM format, or a folder that `openssl rehash` has seen; no https address can be checked "
        "without it.",
        "Install the system's ca-certificates, or let SSL_CERT_FILE name such a file.",
    )


def _asked() -> list[str]:
    return [f"{name}={os.environ[name]}" for name in ("SSL_CERT_FILE", "SSL_CERT_DIR") if os.environ.get(name)]


def _is_hashed(folder: Path) -> bool:
    try:
        return any(HASHED_NAME.fullmatch(entry.name) for entry in folder.iterdir())
    except OSError:
        return False
