"""Wrong settings, a wrong clock and refusals of S3 are told as what they are, without a secret."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from store_client import UseStore

from infra.errors import CredentialsRefused, DiptychError, MachineError, StorageFailed
from infra.storage import Storage, storage_of

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "planted-id",
    "AWS_SECRET_ACCESS_KEY": "planted-secret",
    "AWS_DEFAULT_REGION": "us-east-1",
}
HOUR_S = 3600.0


@dataclass(slots=True)
class Answers:
    """What the server says, and what was asked."""

    status: int = 403
    code: str = "AccessDenied"
    ahead_s: float = 0.0  # its clock
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def answers(use_store: UseStore) -> Iterator[Answers]:
    """The one answer of an S3 server which this process is a client of."""
    answers = Answers()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answers.asked.append(self.command)
            body = f"<Error><Code>{answers.code}</Code><Message>no</Message></Error>".encode()
            self.send_response(answers.status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def do_HEAD(self) -> None:
            self.do_GET()

        def date_time_string(self, timestamp: float | None = None) -> str:
            return super().date_time_string(int(time.time() + answers.ahead_s))

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        use_store({**ENVIRONMENT, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}"})
        yield answers
        server.shutdown()
        thread.join()


@pytest.fixture
def storage() -> Storage:
    return storage_of("s3://bucket/runs")


@pytest.mark.parametrize("ahead_s", [HOUR_S, -HOUR_S])
def test_a_wrong_clock_is_told_whether_the_answer_has_words_or_not(answers: Answers, storage: Storage, ahead_s: float):
    answers.code, answers.ahead_s = "RequestTimeTooSkewed", ahead_s
    for ask in (storage.read_bytes, storage.exists):
        with pytest.raises(
            StorageFailed, match=r"the two clocks differ by (59|60) minutes.*(?s:.)*Set the clock"
        ) as caught:
            ask("run.json")
        assert "tried" not in str(caught.value)


def test_a_refusal_by_a_server_of_the_same_time_is_one_of_the_credentials(answers: Answers, storage: Storage):
    for ask in (storage.read_bytes, storage.exists):
        with pytest.raises(CredentialsRefused, match="refuses the credentials"):
            ask("run.json")


def test_only_what_was_sent_again_is_said_to_have_been_tried(answers: Answers, storage: Storage, use_store: UseStore):
    use_store({"AWS_MAX_ATTEMPTS": "3"})
    answers.status, answers.code = 400, "InvalidRequest"
    with pytest.raises(StorageFailed, match=r"failed \(InvalidRequest\)"):
        storage.read_bytes("run.json")
    answers.asked.clear()
    answers.status, answers.code = 503, "SlowDown"
    with pytest.raises(StorageFailed, match=r"failed \(SlowDown, tried 3 times\)"):
        storage.read_bytes("run.json")
    assert answers.asked == ["GET"] * 3


@pytest.mark.parametrize(
    ("setting", "value", "words"),
    [
        ("AWS_ENDPOINT_URL", "localhost:9000", "AWS_ENDPOINT_URL: .*Invalid endpoint: localhost:9000"),
        ("AWS_ENDPOINT_URL_S3", "localhost:9000", "AWS_ENDPOINT_URL_S3: .*Invalid endpoint: localhost:9000"),
        ("AWS_MAX_ATTEMPTS", "abc", "AWS_MAX_ATTEMPTS: .*'abc'"),
        ("AWS_MAX_ATTEMPTS", "-1", "AWS_MAX_ATTEMPTS: .*-1"),
        ("AWS_PROFILE", "typo", r"AWS_PROFILE: .*profile \(typo\) could not be found"),
        ("AWS_DEFAULT_REGION", "no region!", "AWS_DEFAULT_REGION: .*no region!"),
    ],
)
def test_a_setting_of_which_no_client_can_be_made_is_named(
    use_store: UseStore, storage: Storage, setting: str, value: str, words: str
):
    use_store({**ENVIRONMENT, setting: value})
    with pytest.raises(MachineError, match=words):
        storage.exists("run.json")


@pytest.mark.parametrize("endpoint", ["me:planted@localhost:9000", "http://me:planted@127.0.0.1:1"])
def test_a_login_in_the_endpoint_is_not_shown(use_store: UseStore, storage: Storage, endpoint: str):
    use_store({**ENVIRONMENT, "AWS_ENDPOINT_URL": endpoint, "AWS_MAX_ATTEMPTS": "1"})
    with pytest.raises(DiptychError) as caught:
        storage.exists("run.json")
    assert "planted" not in str(caught.value)


def test_what_botocore_says_of_a_name_is_told(use_store: UseStore):
    use_store({**ENVIRONMENT, "AWS_ENDPOINT_URL": "http://127.0.0.1:1"})
    with pytest.raises(DiptychError, match=r"Invalid bucket name"):
        storage_of("s3://b!/runs").exists("run.json")
