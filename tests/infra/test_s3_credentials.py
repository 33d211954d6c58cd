"""Credentials that a real S3 server stops taking in the middle: renewed where they can be, told where they can't."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest
from fault_proxy import FaultProxy
from object_store import Credentials, ObjectStore
from store_client import UseStore
from store_keys import (
    file_environment,
    give_key,
    key_environment,
    take_key,
    write_credentials,
    write_process_answer,
)

from infra.errors import CredentialsRefused, FixedCredentialsRefused
from infra.lease import Lease
from infra.object_lease import ObjectLease
from infra.s3_objects import S3Objects
from infra.storage import Storage, storage_of

HOUR_S = 3600.0


@dataclass(frozen=True, slots=True)
class Place:
    """A storage behind a proxy that counts, reached with the key in a file; `first` is its key at the beginning."""

    store: ObjectStore
    proxy: FaultProxy
    file: Path
    first: Credentials
    storage: Storage

    def requests_of(self, path: str) -> int:
        return sum(path in target for _, target in self.proxy.requests)


@pytest.fixture
def place(object_store: ObjectStore, use_store: UseStore, tmp_path: Path) -> Iterator[Place]:
    with FaultProxy(object_store.endpoint) as proxy:
        file, first = tmp_path / "credentials", give_key(object_store)
        write_credentials(file, first)
        use_store(file_environment(proxy.endpoint, file))
        storage = storage_of(object_store.url(f"credentials-{uuid4().hex}"))
        storage.write_bytes("before", b"0123456789")
        yield Place(object_store, proxy, file, first, storage)


def exchange_key(place: Place) -> None:
    """Another program renews the file; the key that was in it is refused from then on."""
    write_credentials(place.file, give_key(place.store))
    take_key(place.store, place.first)


def test_a_key_that_another_program_renews_in_its_file_is_taken_over_in_the_middle(place: Place):
    exchange_key(place)
    place.storage.write_bytes("after", b"written")
    assert place.requests_of("after") == 2  # refused, and sent again at once with the new key
    assert place.storage.read_bytes("after") == b"written"
    assert place.requests_of("after") == 3  # the new key is kept


@pytest.mark.parametrize("operation", ["head", "list", "create", "multipart"])
def test_every_kind_of_request_is_sent_again_with_the_new_key(place: Place, operation: str, tmp_path: Path):
    exchange_key(place)
    storage = place.storage
    match operation:
        case "head":
            assert storage.size_bytes("before") == 10
        case "list":
            assert [entry.path for entry in storage.list_files()] == ["before"]
        case "create":
            assert storage.create("marker", b"mine") and not storage.create("marker", b"other")
        case "multipart":
            with (tmp_path / "large").open("w+b") as large:
                large.truncate(40 << 20)
                storage.put_stream(large, "large")
            assert storage.size_bytes("large") == 40 << 20


def test_many_threads_go_over_to_the_new_key_together(place: Place):
    exchange_key(place)
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda number: place.storage.write_bytes(f"t/{number:03d}", b"x"), range(64)))
    assert len(place.storage.list_files("t")) == 64
    assert place.requests_of("/t/") <= 64 + 16  # of each thread the first one at most was refused


def test_a_key_that_nobody_has_renewed_is_refused_at_once_and_found_when_it_is_there(place: Place):
    take_key(place.store, place.first)
    began = time.monotonic()
    with pytest.raises(CredentialsRefused, match="refuses the credentials") as caught:
        place.storage.write_bytes("after", b"")
    assert time.monotonic() - began < 5 and place.requests_of("after") == 1
    assert not isinstance(caught.value, FixedCredentialsRefused) and "Renew them" in caught.value.fix
    assert place.first.secret_key not in str(caught.value)
    write_credentials(place.file, give_key(place.store))
    place.storage.write_bytes("after", b"")


def test_a_second_key_that_is_refused_too_ends_it(place: Place):
    second = give_key(place.store)
    write_credentials(place.file, second)
    for key in (place.first, second):
        take_key(place.store, key)
    with pytest.raises(CredentialsRefused):
        place.storage.write_bytes("after", b"")
    assert place.requests_of("after") == 2


def test_a_file_that_is_gone_or_half_written_is_no_end(place: Place):
    take_key(place.store, place.first)
    place.file.write_text("[default]\naws_access_key_id = abc\n")
    with pytest.raises(CredentialsRefused, match="refuses the credentials"):
        place.storage.write_bytes("after", b"")
    place.file.unlink()
    with pytest.raises(CredentialsRefused):
        place.storage.write_bytes("after", b"")
    write_credentials(place.file, give_key(place.store))
    place.storage.write_bytes("after", b"")


def test_where_there_are_no_credentials_at_all_that_is_told_until_there_are(
    object_store: ObjectStore, use_store: UseStore, tmp_path: Path
):
    file = tmp_path / "credentials"
    use_store(file_environment(object_store.endpoint, file))
    storage = storage_of(object_store.url(f"credentials-{uuid4().hex}"))
    with pytest.raises(CredentialsRefused, match="no credentials are to be had"):
        storage.write_bytes("a", b"")
    write_credentials(file, give_key(object_store))
    storage.write_bytes("a", b"")


@pytest.mark.parametrize(("valid_s", "requests"), [(60.0, 1), (HOUR_S, 2)])
def test_a_credential_process_is_asked_again(place: Place, use_store: UseStore, valid_s: float, requests: int):
    """Before its key expires, by botocore itself; after a refusal also when the key should have been good for long."""
    answer = place.file.with_name("answer.json")
    config = place.file.with_name("config")
    config.write_text(f"[profile renewing]\ncredential_process = cat {answer}\n")
    write_process_answer(answer, place.first, valid_s)
    use_store({"AWS_CONFIG_FILE": str(config), "AWS_PROFILE": "renewing"})
    place.storage.write_bytes("first", b"")
    write_process_answer(answer, give_key(place.store), valid_s)
    take_key(place.store, place.first)
    place.storage.write_bytes("second", b"")
    assert place.requests_of("second") == requests


def test_a_credential_process_that_fails_or_hands_out_expired_keys_is_told(place: Place, use_store: UseStore):
    answer, config = place.file.with_name("answer.json"), place.file.with_name("config")
    config.write_text(f"[profile renewing]\ncredential_process = cat {answer}\n")
    write_process_answer(answer, place.first, 60.0)
    use_store({"AWS_CONFIG_FILE": str(config), "AWS_PROFILE": "renewing"})
    place.storage.write_bytes("first", b"")
    write_process_answer(answer, place.first, -60.0)
    with pytest.raises(CredentialsRefused, match="no credentials are to be had") as caught:
        place.storage.write_bytes("second", b"")
    assert place.first.secret_key not in str(caught.value)
    answer.unlink()
    with pytest.raises(CredentialsRefused, match="no credentials are to be had"):
        place.storage.write_bytes("second", b"")
    write_process_answer(answer, place.first, HOUR_S)
    place.storage.write_bytes("second", b"")


def test_a_key_of_the_environment_that_is_refused_says_what_to_do(place: Place, use_store: UseStore):
    use_store(key_environment(place.proxy.endpoint, place.first))
    place.storage.write_bytes("first", b"")
    take_key(place.store, place.first)
    with pytest.raises(FixedCredentialsRefused, match="refuses the credentials") as caught:
        place.storage.write_bytes("second", b"")
    assert place.requests_of("second") == 1 and "Set new ones" in caught.value.fix
    assert place.first.secret_key not in str(caught.value) and place.first.access_key not in str(caught.value)


def test_a_lease_waits_for_new_credentials_and_is_still_its_holders(place: Place):
    lease, view = leased(place.storage)
    take_key(place.store, place.first)
    wait_until(lambda: view.refusal is not None)
    assert not view.is_held and not view.is_lost
    with pytest.raises(CredentialsRefused):
        view.wait_until_held(0.5)
    write_credentials(place.file, give_key(place.store))
    assert view.wait_until_held(30) and view.refusal is None
    lease.release()
    assert not place.storage.exists("lease.json")


def test_a_lease_is_not_waited_for_with_a_key_of_the_environment(place: Place, use_store: UseStore):
    use_store(key_environment(place.proxy.endpoint, place.first))
    lease, view = leased(place.storage)
    take_key(place.store, place.first)
    wait_until(lambda: not view.is_held)
    began = time.monotonic()
    with pytest.raises(FixedCredentialsRefused):
        view.wait_until_held(600)
    assert time.monotonic() - began < 10
    lease.release()  # raises nothing: it expires by itself


def leased(storage: Storage) -> tuple[ObjectLease, Lease]:
    objects = S3Objects(storage.url)
    lease = ObjectLease(objects, "lease.json", b'{"pid": 1, "host": "a", "since": 0}', expires_after_s=3.0)
    lease.acquire(lambda _: None)
    return lease, Lease(lambda: lease.is_held, lambda: lease.is_lost, lambda: lease.trouble)


def wait_until(is_so: Callable[[], bool], within_s: float = 30) -> None:
    deadline = time.monotonic() + within_s
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)
