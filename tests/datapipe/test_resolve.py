"""Looking up names: many at once, kept for a time, failures told apart."""

import socket
import threading

import pytest

from datapipe.resolve import FAILED_TTL_S, FOUND_TTL_S, LOOKUPS_AT_ONCE, Addresses, Answer, Resolver, look_up
from datapipe.status import SampleStatus


def ask(resolver: Resolver, host: str) -> Answer:
    """The answer, waited for."""
    woken = threading.Event()
    while (answer := resolver.ask(host, woken.set)) is None:
        assert woken.wait(10)
        woken.clear()
    return answer


class Names:
    """A resolver of the test's own, with its clock."""

    def __init__(self, **names: Addresses | Exception) -> None:
        self.names, self.asked, self.now = names, list[str](), 0.0

    def look_up(self, host: str) -> Addresses:
        self.asked.append(host)
        answer = self.names[host]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def resolver(self) -> Resolver:
        return Resolver(self.look_up, lambda: self.now)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (socket.gaierror(socket.EAI_NONAME, ""), SampleStatus.HOST_NOT_FOUND),
        (socket.gaierror(-5, "no address"), SampleStatus.HOST_NOT_FOUND),
        (socket.gaierror(socket.EAI_AGAIN, ""), SampleStatus.DNS_FAILED),
        (socket.gaierror(socket.EAI_FAIL, ""), SampleStatus.DNS_FAILED),
        (UnicodeError("label too long"), SampleStatus.HOST_NOT_FOUND),
    ],
)
def test_a_name_that_does_not_exist_is_told_apart_from_servers_that_do_not_answer(
    error: Exception, status: SampleStatus
):
    answer = ask(Names(host=error).resolver(), "host")
    assert not isinstance(answer, tuple) and answer.status is status


def test_answers_are_kept_and_so_are_failures_for_a_shorter_time():
    names = Names(good=("192.0.2.1", "2001:db8::1"), bad=socket.gaierror(socket.EAI_NONAME, ""))
    resolver = names.resolver()
    assert ask(resolver, "good") == ("192.0.2.1", "2001:db8::1")
    for _ in range(3):
        ask(resolver, "good")
        ask(resolver, "bad")
    assert sorted(names.asked) == ["bad", "good"]
    names.now = FAILED_TTL_S + 1
    ask(resolver, "good")
    ask(resolver, "bad")
    assert sorted(names.asked) == ["bad", "bad", "good"]
    names.now = FOUND_TTL_S + FAILED_TTL_S
    ask(resolver, "good")
    assert names.asked.count("good") == 2


def test_names_that_hang_hold_up_no_others_and_each_is_asked_once():
    release, asked, lock = threading.Event(), list[str](), threading.Lock()

    def look_up_slowly(host: str) -> Addresses:
        with lock:
            asked.append(host)
        if host.startswith("hang"):
            assert release.wait(30)
        return ("192.0.2.1",)

    resolver, woken = Resolver(look_up_slowly), list[int]()
    for number in range(LOOKUPS_AT_ONCE - 1):
        for _ in range(2):
            assert resolver.ask(f"hang{number}", lambda: woken.append(1)) is None
    assert ask(resolver, "quick") == ("192.0.2.1",)
    release.set()
    for number in range(LOOKUPS_AT_ONCE - 1):
        ask(resolver, f"hang{number}")
    assert len(asked) == len(set(asked)) == LOOKUPS_AT_ONCE


@pytest.mark.parametrize("host", ["192.0.2.7", "2001:db8::7", "[2001:db8::7]"])
def test_an_address_needs_no_look_up(host: str):
    names = Names()
    assert names.resolver().ask(host, lambda: None) == (host.strip("[]"),)
    assert names.asked == []


def test_names_that_never_exist_are_not_asked_for():
    names = Names()
    for host in ("a.invalid", "invalid", "a.invalid."):
        answer = ask(names.resolver(), host)
        assert not isinstance(answer, tuple) and answer.status is SampleStatus.HOST_NOT_FOUND
    assert names.asked == []


@pytest.mark.parametrize("host", ["localhost", "2130706433", "0x7f.1", "127.1"])
def test_the_systems_resolver_knows_every_spelling(host: str):
    assert {"127.0.0.1", "::1"} & set(look_up(host))
