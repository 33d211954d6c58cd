"""robots.txt, when the config asks for it."""

import pytest
from hostile_web import HostileWeb

from datapipe import robots_txt
from datapipe.config import BuildConfig
from datapipe.fetch import Fetcher, FetchRequest


def statuses(urls: list[str], **values: object) -> list[str]:
    settings = {"input": "", "output": "", "allow_private_addresses": ["127.0.0.0/8"], "retries": 0, **values}
    with Fetcher(BuildConfig.model_validate(settings)) as fetcher:
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
