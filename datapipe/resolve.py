"""Looks up host names in threads of its own: many at once, answers and failures kept for a time."""

import ipaddress
import queue
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from datapipe.addresses import Refusal
from datapipe.status import SampleStatus
from infra.open_files import is_shortage

LOOKUPS_AT_ONCE = 64  # one that hangs in the system's resolver holds up none of the others
FOUND_TTL_S = 600.0
FAILED_TTL_S = 60.0
SHORTAGE_TTL_S = 1.0
MAX_NAMES = 200_000
# The system's resolver gave a final answer, as opposed to none; glibc's EAI_NODATA is not in Python's module.
NO_SUCH_NAME = frozenset({socket.EAI_NONAME, -5})
NOT_FOUND = Refusal(SampleStatus.HOST_NOT_FOUND, "the host's name has no address")
NO_ANSWER = Refusal(SampleStatus.DNS_FAILED, "the name servers gave no answer")

Addresses = tuple[str, ...]
Answer = Addresses | Refusal | OSError  # an error is what this machine lacked to ask
Lookup = Callable[[str], Addresses]


@dataclass(frozen=True, slots=True)
class _Known:
    answer: Answer
    until: float


class Resolver:
    """Host names to addresses, for all threads of a process."""

    def __init__(self, lookup: Lookup | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._lookup = lookup or look_up
        self._clock = clock
        self._known: dict[str, _Known] = {}
        self._asked: dict[str, list[Callable[[], None]]] = {}
        self._names: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0

    def ask(self, host: str, wake: Callable[[], None]) -> Answer | None:
        """The host's addresses, or why there are none; None while it is being looked up, and `wake` is called then."""
        if (literal := _literal(host)) is not None:
            return literal
        with self._lock:
            known = self._known.get(host)
            if known is not None and known.until > self._clock():
                return known.answer
            if host in self._asked:
                if wake not in self._asked[host]:
                    self._asked[host].append(wake)
                return None
            self._asked[host] = [wake]
            if self._threads < min(LOOKUPS_AT_ONCE, len(self._asked)):
                self._threads += 1
                threading.Thread(target=self._work, name="resolve", daemon=True).start()
        self._names.put(host)
        return None

    def _work(self) -> None:
        while True:
            host = self._names.get()
            answer = self._answer(host)
            ttl = _ttl_s(answer)
            with self._lock:
                if len(self._known) >= MAX_NAMES:
                    del self._known[next(iter(self._known))]
                self._known[host] = _Known(answer, self._clock() + ttl)
                waiting = self._asked.pop(host)
            for wake in waiting:
                wake()

    def _answer(self, host: str) -> Answer:
        if host.rstrip(".").rpartition(".")[2] == "invalid":
            return NOT_FOUND  # RFC 6761, 6.4: no such name exists, and resolvers need not be asked
        try:
            return self._lookup(host) or NOT_FOUND
        except socket.gaierror as error:
            return NOT_FOUND if error.errno in NO_SUCH_NAME else NO_ANSWER
        except (OSError, UnicodeError) as error:
            # A label of more than 63 characters, for one, cannot be asked for.
            return error if isinstance(error, OSError) and is_shortage(error) else NOT_FOUND


def look_up(host: str) -> Addresses:
    """Asks the system's resolver. Raises OSError (socket.gaierror) or UnicodeError."""
    found: Sequence[tuple[object, ...]] = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return tuple(dict.fromkeys(str(entry[4][0]) for entry in found if isinstance(entry[4], tuple)))


def _ttl_s(answer: Answer) -> float:
    if isinstance(answer, OSError):
        return SHORTAGE_TTL_S
    return FAILED_TTL_S if isinstance(answer, Refusal) else FOUND_TTL_S


def _literal(host: str) -> Addresses | None:
    """The address that the host is already written as; other spellings of IPv4 go to the system's resolver."""
    try:
        return (str(ipaddress.ip_address(host.strip("[]"))),)
    except ValueError:
        return None
