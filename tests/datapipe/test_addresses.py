"""Which addresses and URLs may be asked."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datapipe.addresses import Refusal, clean_url, may_be_asked, parse_networks


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_a_public_address_may_be_asked(address: str):
    assert may_be_asked(address, ())


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0",
        "10.1.2.3",
        "100.64.0.1",  # carrier-grade NAT
        "127.0.0.1",
        "169.254.169.254",  # clouds' metadata
        "172.16.0.1",
        "192.0.0.192",  # another cloud's
        "192.0.2.1",
        "192.168.1.1",
        "198.18.0.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::127.0.0.1",  # IPv4-compatible
        "::ffff:127.0.0.1",  # IPv4-mapped
        "::ffff:a9fe:a9fe",
        "64:ff9b::7f00:1",  # NAT64
        "64:ff9b:1::a00:1",  # a network's own NAT64
        "2002:7f00:1::",  # 6to4
        "2001:0:7f00:1::",  # Teredo
        "2001:db8::1",
        "fc00::1",
        "fd12:3456::1",
        "fe80::1",
        "fe80::1%eth0",
        "fec0::1",
        "ff02::1",
    ],
)
def test_an_address_inside_is_refused(address: str):
    assert not may_be_asked(address, ())


def test_an_allowed_network_opens_itself_alone():
    allowed = parse_networks(["127.0.0.1/32", "fd00::/8"])
    assert may_be_asked("127.0.0.1", allowed)
    assert may_be_asked("::ffff:127.0.0.1", allowed)
    assert may_be_asked("fd00::7", allowed)
    assert not may_be_asked("127.0.0.2", allowed)
    assert not may_be_asked("::1", allowed)


def test_hosts_and_paths_of_any_script_become_ascii():
    assert clean_url("http://bücher.example/Straße/ü?q=ä b#teil") == (
        "http://xn--bcher-kva.example/Stra%C3%9Fe/%C3%BC?q=%C3%A4%20b"
    )
    assert clean_url(" https://a.example:8443 ") == "https://a.example:8443/"
    assert clean_url("http://a.example/100%25/%C3%A4") == "http://a.example/100%25/%C3%A4"


@given(st.text(max_size=60) | st.text(max_size=40).map(lambda text: f"http://{text}/x"))
def test_whatever_stands_in_the_list_is_cleaned_or_refused(text: str):
    cleaned = clean_url(text)
    assert isinstance(cleaned, Refusal) or (cleaned.isascii() and cleaned.isprintable() and " " not in cleaned)
