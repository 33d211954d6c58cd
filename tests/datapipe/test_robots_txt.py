"""robots.txt, when the config asks for it."""

import itertools
import time

import pytest
from hostile_web import HostileWeb, Visit

from datapipe import robots_txt
from datapipe.config import BuildConfig
from datapipe.curl_loop import CurlLoop
from datapipe.fetch import Fetcher, FetchRequest
from datapipe.robots_rules import SiteRules

SETTINGS = {"input": "", "output": "", "allow_private_addresses": ["127.0.0.0/8"], "retries": 0}


def statuses(urls: list[str], **values: object) -> list[str]:
    with Fetcher(BuildConfig.model_validate(SETTINGS | values)) as fetcher:
        results = fetcher.fetch(FetchRequest(row, url) for row, url in enumerate(urls))
        return [result.status.value for result in sorted(results, key=lambda result: result.row)]


@pytest.fixture
def urls(web: HostileWeb) -> list[str]:
    return [web.serve(path, b"picture") for path in ("/open/a.jpg", "/private/b.jpg", "/open/c.jpg")]


def test_what_a_site_forbids_is_not_asked_for(web: HostileWeb, urls: list[str]):
    web.serve("/robots.txt", b"User-agent: *\nDisallow: /private/\n")
    assert statuses(urls, respect_robots_txt=True) == ["success", "robots_txt", "success"]
    assert statuses(urls) == ["success"] * 3


def test_rules_for_our_token_go_before_those_for_all(web: HostileWeb, urls: list[str]):
    web.serve("/robots.txt", b"User-agent: *\nDisallow: /\n\nUser-agent: birds\nDisallow: /private/\n")
    assert statuses(urls, respect_robots_txt=True) == ["robots_txt"] * 3
    assert statuses(urls, respect_robots_txt=True, user_agent_token="birds") == ["success", "robots_txt", "success"]


def test_rules_that_are_not_to_be_indexed_hold(web: HostileWeb, urls: list[str]):
    web.serve("/robots.txt", b"User-agent: *\nDisallow: /private/\n", X_Robots_Tag="noindex")
    assert statuses(urls, respect_robots_txt=True) == ["success", "robots_txt", "success"]


def test_a_redirect_is_held_to_the_rules_too(web: HostileWeb, urls: list[str]):
    web.serve("/robots.txt", b"User-agent: *\nDisallow: /private/\n")
    moved = web.at("/moved", lambda visit: visit.answer(status="302 Found", Location="/private/b.jpg"))
    assert statuses([moved, urls[0]], respect_robots_txt=True) == ["robots_txt", "success"]


def test_sites_whose_rules_are_forgotten_meanwhile_are_asked_again(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(robots_txt, "MAX_KEPT_RULES", 1)
    with HostileWeb(address="0.0.0.0") as web:
        web.serve("/robots.txt", b"User-agent: *\nDisallow: /private/\nDisallow: /more/\n")
        web.serve("/open", b"picture")
        web.at("/moved", lambda visit: visit.answer(status="302 Found", Location="/private/b.jpg"))
        sites = [f"http://127.0.0.{number}:{web.port}" for number in range(1, 9)]
        urls = [site + path for site in sites for path in ("/open", "/moved")]
        assert statuses(urls, respect_robots_txt=True) == ["success", "robots_txt"] * len(sites)
        assert web.asked["/robots.txt"] <= 2 * len(sites)


def test_a_site_without_rules_allows_all(urls: list[str]):
    assert statuses(urls, respect_robots_txt=True) == ["success"] * 3


def test_a_site_whose_rules_cannot_be_had_allows_nothing(web: HostileWeb, urls: list[str]):
    web.at("/robots.txt", lambda visit: visit.answer(status="503 Service Unavailable"))
    assert statuses(urls, respect_robots_txt=True) == ["robots_txt"] * 3


def test_rules_that_take_long_to_compare_hold_up_no_other_host(web: HostileWeb):
    slow = "".join(f"Disallow: /*{'a' * 47}X{'a' * 47}{number}\n" for number in range(1000))

    def answer_in_two_parts(visit: Visit) -> None:
        visit.send(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\npic")
        while not hostile.asked["/robots.txt"] and not visit.is_closing.wait(0.01):
            pass
        visit.is_closing.wait(0.2)
        visit.send(b"ture")

    with HostileWeb() as hostile:
        hostile.serve("/robots.txt", f"User-agent: *\n{slow}".encode())
        long = [f"{hostile.base}/{'a' * 8000}{number}" for number in range(30)]
        picture = web.at("/a.jpg", answer_in_two_parts)
        settings = {"respect_robots_txt": True, "timeout": 2.0, "connections_per_host": 1}
        assert statuses([picture, *long], **settings) == ["success"] + ["robots_txt"] * len(long)


@pytest.mark.parametrize("is_known", [False, True], ids=["asked for", "known"])
def test_the_network_has_its_turn_between_two_decisions(
    is_known: bool, web: HostileWeb, monkeypatch: pytest.MonkeyPatch
):
    steps: list[str] = []
    allows, wait = SiteRules.allows, CurlLoop.wait
    monkeypatch.setattr(SiteRules, "allows", lambda *given: steps.append("decision") or allows(*given))
    monkeypatch.setattr(CurlLoop, "wait", lambda *given: steps.append("turn") or wait(*given))
    web.serve("/robots.txt", b"User-agent: *\nDisallow: /private/\n")
    urls = [web.serve(f"/private/{number}", b"picture") for number in range(20)]
    if is_known:
        urls = [
            web.at(f"/{n}", lambda visit: visit.answer(status="302 Found", Location="/private/0")) for n in range(20)
        ]
    assert statuses(urls, respect_robots_txt=True) == ["robots_txt"] * len(urls)
    assert steps.count("decision") == len(urls) * (1 + is_known)
    # One of a URL that waited for the rules, and one of a URL whose turn has come.
    longest = max(len(list(group)) for step, group in itertools.groupby(steps) if step == "decision")
    assert longest <= 1 + is_known


def test_answers_that_nobody_has_read_are_let_go_of():
    class StoppedError(Exception):
        pass

    def stop_at_one() -> bool:
        if fetcher._unread:
            raise StoppedError
        time.sleep(0.02)  # so that several answers come in one turn
        return False

    with HostileWeb(address="0.0.0.0") as many:
        many.serve("/robots.txt", b"User-agent: *\n")
        sites = [f"http://127.0.0.{number}:{many.port}/a.jpg" for number in range(1, 9)]
        requests = [FetchRequest(row, url) for row, url in enumerate(sites)]
        with Fetcher(BuildConfig.model_validate(SETTINGS | {"respect_robots_txt": True})) as fetcher:
            with pytest.raises(StoppedError):
                list(fetcher.fetch(requests, stop_at_one))
            assert fetcher.bytes_in_memory > 0
        assert fetcher.bytes_in_memory == 0
