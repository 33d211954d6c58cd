"""Finds out what answers at a cluster's address, before Ray does, which tries a wrong one for ten minutes."""

import contextlib
import os
import socket

from infra.errors import MachineError
from infra.secret_values import is_secret_value

CONNECT_TIMEOUT_S = 10.0
ANSWER_TIMEOUT_S = 30.0  # a head answers at once, unless its machine is overloaded
SETTINGS = 4  # the type of HTTP/2's first frame
FRAME_HEAD_BYTES = 9
# What a client of HTTP/2 says first, with settings that change nothing. A head speaks gRPC, and answers with its own.
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, SETTINGS, 0, 0, 0, 0, 0])
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
WANTED = "Wanted is the port where a cluster's head takes drivers, such as 10.0.0.7:6379."


def refuse_secret(address: str) -> None:
    """Raises MachineError for an address with a login, and does not show it: it would be kept with the run."""
    if is_secret_value(address):
        raise MachineError(
            "--address: holds a login, a token or a signature, which is not shown here.",
            "The address is printed, and written into the run's folder; so secrets come from elsewhere.",
            "Take it out: RAY_AUTH_MODE=token and RAY_AUTH_TOKEN for a cluster's token, ~/.netrc for a proxy's login.",
        )


def require_head(address: str, *, answer_timeout_s: float = ANSWER_TIMEOUT_S) -> None:
    """Raises MachineError unless something that may be a Ray head answers at HOST:PORT; other forms are left to Ray."""
    refuse_secret(address)
    if address.startswith(("http://", "https://")):
        raise MachineError(
            f"--address: {address} is the address of a dashboard.",
            WANTED,
            "Give that one, or hand the run to the cluster as a job: `diptych submit CONFIG.yaml --address http://…`.",
        )
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return
    host = _as_ray_asks(host.strip("[]"))
    try:
        other = _other_than_head(host, int(port), answer_timeout_s)
    except (OSError, ValueError, OverflowError) as error:
        raise MachineError(
            f"No Ray cluster answers at {address} ({host}:{port}: {error}).",
            WANTED,
            "Check the address, or leave it out to run on this machine.",
        ) from error
    if other is not None:
        raise MachineError(
            f"No Ray cluster answers at {address}: {other} does.",
            WANTED,
            "Give that port; the dashboard's (8265) is for `diptych submit --address http://HEAD:8265`.",
        )


def _other_than_head(host: str, port: int, timeout_s: float) -> str | None:
    """What answers instead of a head; None where it may be one. Raises OSError, ValueError, OverflowError."""
    with socket.create_connection((host, port), timeout=CONNECT_TIMEOUT_S) as connection:
        if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
            return None  # which keeps to itself what it is
        connection.settimeout(timeout_s)
        answer = b""
        with contextlib.suppress(ConnectionError):
            connection.sendall(PREFACE)
            while len(answer) < FRAME_HEAD_BYTES and (data := connection.recv(FRAME_HEAD_BYTES)):
                answer += data
    if answer.startswith((b"HTTP/", b"<")):
        return "a web server, such as a cluster's dashboard,"
    return None if len(answer) >= FRAME_HEAD_BYTES and answer[3] == SETTINGS else "something else"


def _as_ray_asks(host: str) -> str:
    """Ray asks for a loopback's port at this machine's own address, where one that is forwarded is not found."""
    if host not in LOOPBACK:
        return host
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as trial:
        trial.connect(("8.8.8.8", 53))  # which sends nothing
        return str(trial.getsockname()[0])
    return host
