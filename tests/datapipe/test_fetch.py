"""Fetching from a hostile web: every URL ends in time, in the status that it deserves."""

import socket
import threading
import time
from collections import Counter

import pycurl
import pytest
from hostile_web import HostileWeb, Visit, drip, endless

from datapipe.config import BuildConfig
from datapipe.curl_loop import CurlLoop
from datapipe.fetch import Fetcher, FetchRequest, FetchResult
from datapipe.status import SampleStatus

PICTURE = b"\xff\xd8\xff\xe0 not decoded here"


def config(**settings: object) -> BuildConfig:
    local = {"input": "", "output": "", "timeout": 2.0, "retries": 0, "allow_private_addresses": ["127.0.0.1/32"]}
    return BuildConfig.model_validate(local | settings)


def fetch_all(urls: list[str | None], **settings: object) -> list[FetchResult]:
    with Fetcher(config(**settings)) as fetcher:
        results = list(fetcher.fetch(FetchRequest(row, url) for row, url in enumerate(urls)))
    assert sorted(result.row for result in results) == list(range(len(urls)))
    return sorted(results, key=lambda result: result.row)


def fetch_one(url: str | None, **settings: object) -> FetchResult:
    return fetch_all([url], **settings)[0]


def test_a_picture_comes_back_as_it_was_sent(web: HostileWeb):
    result = fetch_one(web.serve("/a.jpg", PICTURE))
    assert (result.row, result.status, result.message) == (0, SampleStatus.SUCCESS, "")
    assert result.body.take() == PICTURE


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (403, SampleStatus.HTTP_403),
        (404, SampleStatus.HTTP_404),
        (410, SampleStatus.HTTP_410),
        (418, SampleStatus.HTTP_4XX),
        (429, SampleStatus.HTTP_429),
        (500, SampleStatus.HTTP_5XX),
        (503, SampleStatus.HTTP_5XX),
        (204, SampleStatus.HTTP_OTHER),
        (304, SampleStatus.HTTP_OTHER),
    ],
)
def test_an_http_status_is_counted_under_its_own_reason(web: HostileWeb, code: int, status: SampleStatus):
    result = fetch_one(web.at("/x", lambda visit: visit.answer(status=f"{code} Whatever")))
    assert (result.status, result.message) == (status, f"HTTP status {code}")


def test_misbehaving_answers_have_their_reasons(web: HostileWeb):
    answers = {
        "/hang": (lambda visit: visit.hang(), SampleStatus.TIMEOUT),
        "/drip": (drip, SampleStatus.TIMEOUT),
        "/endless": (endless, SampleStatus.TOO_LARGE),
        "/headers": (endless_headers, SampleStatus.PROTOCOL_ERROR),
        "/reset": (lambda visit: visit.reset(), SampleStatus.PROTOCOL_ERROR),
        "/closed": (lambda visit: visit.close(), SampleStatus.PROTOCOL_ERROR),
        "/cut": (
            lambda visit: cut(visit, b"HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n\r\nx"),
            SampleStatus.PROTOCOL_ERROR,
        ),
        "/chunks": (lambda visit: cut(visit, CHUNKED + b"zz\r\nnot a chunk\r\n"), SampleStatus.PROTOCOL_ERROR),
        "/0.9": (lambda visit: cut(visit, b"just bytes, no status line"), SampleStatus.PROTOCOL_ERROR),
        "/empty": (lambda visit: visit.answer(b""), SampleStatus.EMPTY_BODY),
        "/declared": (lambda visit: cut(visit, HUGE), SampleStatus.TOO_LARGE),
        "/loop": (lambda visit: visit.answer(status="302 Found", Location="/loop"), SampleStatus.TOO_MANY_REDIRECTS),
        "/ftp": (
            lambda visit: visit.answer(status="302 Found", Location="ftp://127.0.0.1/"),
            SampleStatus.SCHEME_REFUSED,
        ),
        "/file": (
            lambda visit: visit.answer(status="302 Found", Location="file:///etc/passwd"),
            SampleStatus.SCHEME_REFUSED,
        ),
        "/inside": (
            lambda visit: visit.answer(status="302 Found", Location=f"http://127.0.0.2:{web.port}/a"),
            SampleStatus.ADDRESS_REFUSED,
        ),
        "/inside6": (
            lambda visit: visit.answer(status="302 Found", Location="http://[::1]:1/"),
            SampleStatus.ADDRESS_REFUSED,
        ),
        "/noai": (lambda visit: visit.answer(PICTURE, X_Robots_Tag="noai"), SampleStatus.OPT_OUT),
    }
    urls = [web.at(path, handler) for path, (handler, _) in answers.items()]
    started = time.monotonic()
    results = fetch_all(urls, max_download_bytes=1 << 20)
    assert time.monotonic() - started < 4.0
    got = {path: result.status for path, result in zip(answers, results, strict=True)}
    assert got == {path: status for path, (_, status) in answers.items()}
    assert all(result.body is None for result in results)


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
HUGE = b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\nx"


def cut(visit: Visit, data: bytes) -> None:
    visit.send(data)
    visit.close()


def endless_headers(visit: Visit) -> None:
    visit.send(b"HTTP/1.1 200 OK\r\n")
    while not visit.is_closing.is_set():
        visit.send(b"X-More: " + b"y" * 1000 + b"\r\n")


@pytest.mark.parametrize(
    ("url", "status"),
    [
        (None, SampleStatus.URL_EMPTY),
        ("", SampleStatus.URL_EMPTY),
        ("   ", SampleStatus.URL_EMPTY),
        ("no url", SampleStatus.URL_MALFORMED),
        ("http://", SampleStatus.URL_MALFORMED),
        ("http://a b/", SampleStatus.URL_MALFORMED),
        ("http://127.0.0.1/a\nb", SampleStatus.URL_MALFORMED),
        ("http://127.0.0.1/\x00", SampleStatus.URL_MALFORMED),
        ("http://127.0.0.1:99999/", SampleStatus.URL_MALFORMED),
        ("http://[::1/", SampleStatus.URL_MALFORMED),
        ("http://[v1.a:b]/", SampleStatus.URL_MALFORMED),
        ("http://127.0.0.1/" + "a" * 20_000, SampleStatus.URL_MALFORMED),
        ("http://user:secret@127.0.0.1/", SampleStatus.URL_MALFORMED),
        ("ftp://127.0.0.1/a.jpg", SampleStatus.SCHEME_REFUSED),
        ("data:image/png;base64,AAAA", SampleStatus.SCHEME_REFUSED),
        ("http://127.0.0.2/", SampleStatus.ADDRESS_REFUSED),
        ("http://2130706434/", SampleStatus.ADDRESS_REFUSED),
        ("http://0x7f.2/", SampleStatus.ADDRESS_REFUSED),
        ("http://[::ffff:127.0.0.2]/", SampleStatus.ADDRESS_REFUSED),
        ("http://0.0.0.0/", SampleStatus.ADDRESS_REFUSED),
        ("http://169.254.169.254/latest/meta-data/", SampleStatus.ADDRESS_REFUSED),
        ("http://no-such-host.invalid/", SampleStatus.HOST_NOT_FOUND),
    ],
)
def test_a_url_that_may_not_be_asked_is_not(url: str | None, status: SampleStatus):
    assert fetch_one(url).status is status


def test_a_server_without_tls_is_no_https():
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        assert fetch_one(f"https://127.0.0.1:{listening.getsockname()[1]}/a.jpg").status is SampleStatus.TLS_FAILED
        thread.join()


def test_a_name_that_leads_to_this_machine_is_refused_unless_allowed(web: HostileWeb):
    web.serve("/a.jpg", PICTURE)
    url = f"http://localhost:{web.port}/a.jpg"
    assert fetch_one(url, allow_private_addresses=[]).status is SampleStatus.ADDRESS_REFUSED
    assert fetch_one(url).status is SampleStatus.SUCCESS


def test_a_url_with_letters_of_any_script_is_asked_percent_encoded(web: HostileWeb):
    web.serve("/%C3%A4%20b%2Fc.jpg", PICTURE)
    assert fetch_one(f"{web.base}/ä b%2Fc.jpg#part").status is SampleStatus.SUCCESS


def test_proxies_cookies_and_secrets_of_the_environment_are_not_used(web: HostileWeb, tmp_path, monkeypatch):
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1/")
    seen: list[dict[str, str]] = []

    def note(visit: Visit) -> None:
        seen.append(visit.headers)
        visit.answer(PICTURE, Set_Cookie="who=you")

    url = web.at("/a.jpg", note)
    assert [result.status for result in fetch_all([url, url], connections=1)] == [SampleStatus.SUCCESS] * 2
    assert all(not {"authorization", "cookie", "proxy-connection"} & headers.keys() for headers in seen)
    assert all("diptych" in headers["user-agent"] for headers in seen)


def test_an_opt_out_for_another_crawler_is_not_meant_for_us(web: HostileWeb):
    other = web.serve("/other", PICTURE, X_Robots_Tag="otherbot: noai")
    ours = web.serve("/ours", PICTURE, X_Robots_Tag="BirdBot: noindex, noai")
    results = fetch_all([other, ours], user_agent_token="birdbot")
    assert [result.status for result in results] == [SampleStatus.SUCCESS, SampleStatus.OPT_OUT]
    assert fetch_one(ours).status is SampleStatus.SUCCESS
    assert fetch_one(ours, user_agent_token="birdbot", disallowed_header_directives=[]).status is SampleStatus.SUCCESS


def test_an_error_that_passes_is_tried_again_and_one_that_stays_is_not(web: HostileWeb):
    def recover(visit: Visit) -> None:
        if visit.earlier == 0:
            visit.reset()
        elif visit.earlier == 1:
            visit.answer(status="503 Busy", Retry_After="0")
        else:
            visit.answer(PICTURE)

    results = fetch_all([web.at("/recovers", recover), web.base + "/missing"], retries=2)
    assert [result.status for result in results] == [SampleStatus.SUCCESS, SampleStatus.HTTP_404]
    assert web.asked == {"/recovers": 3, "/missing": 1}


def test_retry_after_is_honoured(web: HostileWeb):
    asked_at: list[float] = []

    def busy(visit: Visit) -> None:
        asked_at.append(time.monotonic())
        visit.answer(PICTURE) if visit.earlier else visit.answer(status="429 Slow Down", Retry_After="2")

    assert fetch_one(web.at("/busy", busy), retries=1).status is SampleStatus.SUCCESS
    assert 1.9 < asked_at[1] - asked_at[0] < 4.0


def test_a_host_has_no_more_connections_than_allowed(web: HostileWeb):
    def slow(visit: Visit) -> None:
        time.sleep(0.05)
        visit.answer(PICTURE)

    urls = [web.at(f"/{number}", slow) for number in range(40)]
    results = fetch_all(urls, connections=32, connections_per_host=4)
    assert all(result.status.is_success for result in results)
    assert web.most_running == 4


def test_a_slow_host_holds_up_no_other(web: HostileWeb):
    with HostileWeb() as slow:
        hanging = [slow.at(f"/{number}", lambda visit: visit.hang()) for number in range(40)]
        good = [web.serve(f"/{number}", PICTURE) for number in range(200)]
        ended: dict[int, float] = {}
        started = time.monotonic()
        with Fetcher(config(connections=16, connections_per_host=8, timeout=1.0)) as fetcher:
            for result in fetcher.fetch(FetchRequest(row, url) for row, url in enumerate(hanging + good)):
                ended[result.row] = time.monotonic() - started
    assert max(ended[row] for row in range(40, 240)) < 1.0
    assert max(ended.values()) < 7.0


def test_while_the_reader_is_full_no_new_request_begins(web: HostileWeb):
    urls = [web.serve(f"/{number}", PICTURE) for number in range(30)]
    is_full = threading.Event()
    with Fetcher(config(connections=4)) as fetcher:
        results = fetcher.fetch((FetchRequest(row, url) for row, url in enumerate(urls)), is_full.is_set)
        next(results)
        is_full.set()
        threading.Timer(0.3, is_full.clear).start()
        assert len(list(results)) == 29


def count_turns(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts how often a loop asks the network."""
    turns, wait = Counter[str](), CurlLoop.wait

    def counted(loop: CurlLoop, timeout_s: float) -> list[tuple[pycurl.Curl, int]]:
        turns["all"] += 1
        return wait(loop, timeout_s)

    monkeypatch.setattr(CurlLoop, "wait", counted)
    return turns


# One that spins makes tens of thousands a second.
FEW_TURNS = 500


@pytest.mark.parametrize("answer", [{}, {"Retry_After": "1"}], ids=["retry", "held host"])
def test_a_retry_that_is_due_while_every_connection_hangs_is_waited_for_in_sleep(
    answer: dict[str, str], web: HostileWeb, monkeypatch: pytest.MonkeyPatch
):
    turns = count_turns(monkeypatch)
    with HostileWeb() as slow:
        busy = web.at("/busy", lambda visit: visit.answer(status="503 Busy", **answer))
        hanging = [slow.at(f"/{number}", lambda visit: visit.hang()) for number in range(8)]
        results = fetch_all([busy, *hanging], connections=8, retries=1)
    assert [result.status for result in results] == [SampleStatus.HTTP_5XX] + [SampleStatus.TIMEOUT] * 8
    assert turns["all"] < FEW_TURNS


def test_a_retry_that_is_due_while_the_reader_is_full_is_waited_for_in_sleep(
    web: HostileWeb, monkeypatch: pytest.MonkeyPatch
):
    turns = count_turns(monkeypatch)
    is_full = threading.Event()

    def recover(visit: Visit) -> None:
        is_full.set()
        visit.answer(PICTURE) if visit.earlier else visit.answer(status="503 Busy", Retry_After="0")

    def has_room(fetcher: Fetcher) -> None:
        is_full.clear()
        fetcher.wake()

    with Fetcher(config(retries=1)) as fetcher:
        room = threading.Timer(1.0, has_room, [fetcher])
        room.start()
        requests = [FetchRequest(0, web.at("/recovers", recover))]
        (result,) = fetcher.fetch(requests, is_full.is_set)
        room.join()
    assert result.status is SampleStatus.SUCCESS
    assert turns["all"] < FEW_TURNS


def test_nothing_is_waited_for_when_the_last_url_has_ended(monkeypatch: pytest.MonkeyPatch):
    turns = count_turns(monkeypatch)
    assert fetch_one("http://no-such-host.invalid/").status is SampleStatus.HOST_NOT_FOUND
    assert turns["all"] <= 1  # for the name


def test_the_same_failures_have_the_same_texts(web: HostileWeb):
    urls = [
        web.at("/hang", lambda visit: visit.hang()),
        web.at("/endless", endless),
        web.at("/cut", lambda v: cut(v, HUGE)),
    ]
    urls += [f"{web.base}/none", "http://127.0.0.1:1/", "http://127.0.0.2/"]
    first, second = (fetch_all(urls, timeout=1.0, max_download_bytes=100_000) for _ in range(2))
    assert first == second
    assert not any(str(web.port) in result.message for result in first)
