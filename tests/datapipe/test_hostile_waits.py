"""What has to wait for its turn is not counted as too slow, and no wait is longer than the build says."""

import time
from collections import Counter

from hostile_kinds import PHOTO
from hostile_web import HostileWeb, Visit

from datapipe.config import BuildConfig
from datapipe.fetch import Fetcher, FetchRequest
from datapipe.retry import longest_url_s


def config(**values: object) -> BuildConfig:
    fixed = {"input": "", "output": "", "timeout": 1.0, "retries": 0, "allow_private_addresses": ["127.0.0.1/32"]}
    return BuildConfig.model_validate(fixed | values)


def statuses(urls: list[str], settings: BuildConfig) -> Counter[str]:
    with Fetcher(settings) as fetcher:
        results = fetcher.fetch(FetchRequest(row, url) for row, url in enumerate(urls))
        return Counter(result.status.value for result in results)


def redirect_slowly(visit: Visit) -> None:
    visit.is_closing.wait(0.1)
    visit.answer(status="302 Found", Location="/plain")


def test_a_host_that_redirects_each_of_its_many_urls_is_not_too_slow(web: HostileWeb):
    web.serve("/plain", PHOTO)
    urls = [web.at(f"/{number}", redirect_slowly) for number in range(400)]
    assert statuses(urls, config()) == {"success": 400}


def test_a_host_that_is_asked_seldom_may_redirect(web: HostileWeb):
    web.serve("/plain", PHOTO)
    urls = [web.at(f"/{number}", redirect_slowly) for number in range(8)]
    assert statuses(urls, config(timeout=0.5, requests_per_second_per_host=8)) == {"success": 8}


def test_a_hop_is_not_too_slow_because_the_reader_was_full(web: HostileWeb):
    web.serve("/plain", PHOTO)
    urls = [web.at(f"/{number}", redirect_slowly) for number in range(8)]
    began = time.monotonic()

    def is_full() -> bool:
        return len(web.asked) > 0 and time.monotonic() - began < 1.5

    with Fetcher(config(connections=4)) as fetcher:
        results = fetcher.fetch((FetchRequest(row, url) for row, url in enumerate(urls)), is_full)
        assert Counter(result.status.value for result in results) == {"success": 8}


def test_a_host_that_asks_for_patience_each_time_stays_within_the_bound(web: HostileWeb):
    urls = [web.at(f"/{n}", lambda visit: visit.answer(status="503 Busy", Retry_After="1")) for n in range(6)]
    settings = config(connections_per_host=2)
    began = time.monotonic()
    assert statuses(urls, settings) == {"http_5xx": 6}
    assert time.monotonic() - began < 3 * longest_url_s(settings.timeout, settings.retries)
