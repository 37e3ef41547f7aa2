"""Which addresses may be called on somebody else's word."""

from __future__ import annotations

import socket

import pytest

from broker.addresses import AddressRefused, AllowList, is_loopback, split_url
from broker.errors import ConfigurationError, InvalidRequest

NOTHING = AllowList.parse("")
SOME = AllowList.parse("10.1.0.0/16, 192.168.7.7:40000 [fd00::]/8")


@pytest.mark.parametrize(
    ("url", "host", "port"),
    [
        ("http://localhost:21002", "localhost", 21002),
        ("http://10.1.2.3:40000/", "10.1.2.3", 40000),
        ("https://gpu1.lab", "gpu1.lab", 443),
        ("http://gpu1.lab", "gpu1.lab", 80),
        ("http://[::1]:8000", "::1", 8000),
    ],
)
def test_a_workers_url_has_host_and_port(url: str, host: str, port: int) -> None:
    assert split_url(url) == (host, port)


@pytest.mark.parametrize(
    "url",
    [
        "", "localhost:21002", "ftp://h:1", "file:///etc/passwd", "http://", "http://:80",
        "http://h:0", "http://h:99999", "http://h:x", "http://[::1", "http://user@h:1",
        "http://:secret@h:1", "http://@h:1", "http://h:1/path", "http://h:1?", "http://h:1?a=b",
        "http://h:1#", "http://good.lab\\@127.0.0.1:1", "http://h :1", "http://h:1\n", "//h:1",
        "http://h:1\r\nX-Evil: 1", "javascript:alert(1)",
    ],
)  # fmt: skip
def test_anything_else_is_no_workers_url(url: str) -> None:
    with pytest.raises(InvalidRequest, match="is no worker address"):
        split_url(url)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.8.9.10", "::1", "localhost", "2130706433", "0x7f.1", "127.1"]
)
def test_loopback_is_allowed_unless_it_is_not_implied(host: str) -> None:
    assert is_loopback(NOTHING.check(host, 8000))
    with pytest.raises(AddressRefused):
        SOME.check(host, 8000, loopback=False)


def test_loopback_that_a_rule_lists_is_allowed_to_all() -> None:
    assert AllowList.parse("127.0.0.1:8000").check("127.0.0.1", 8000, loopback=False)
    assert AllowList.parse("localhost").check("localhost", 1, loopback=False)


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254", "10.0.0.1", "192.168.7.7", "172.17.0.1", "8.8.8.8", "0.0.0.0",
        "::", "::ffff:169.254.169.254", "::ffff:10.0.0.1", "fd00:ec2::254", "fe80::1", "167772161",
        "no-such-host.invalid", "a" * 300, "\udc80",
    ],
)  # fmt: skip
def test_no_other_address_is_allowed_by_default(host: str) -> None:
    with pytest.raises(AddressRefused):
        NOTHING.check(host, 80)


def test_rules_allow_networks_and_single_ports() -> None:
    assert SOME.check("10.1.255.1", 5) == "10.1.255.1"
    assert SOME.check("::ffff:10.1.0.9", 5) == "10.1.0.9"
    assert SOME.check("192.168.7.7", 40000) == "192.168.7.7"
    assert SOME.check("fd00::1", 5) == "fd00::1"
    for host, port in (("10.2.0.1", 5), ("192.168.7.7", 40001), ("169.254.169.254", 80)):
        with pytest.raises(AddressRefused, match="HELIOGRAPH_WORKER_ADDRESSES"):
            SOME.check(host, port)


@pytest.mark.parametrize("address", ["169.254.169.254", "127.0.0.1", "0.0.0.0", "::1", "fe80::1"])
def test_a_name_in_a_rule_does_not_come_to_stand_for_this_machine_or_its_link(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    """Name resolution belongs to the machine, so it is what is replaced here."""
    addresses = ["10.1.2.3"]
    resolve = socket.getaddrinfo
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, *args, **more: resolve(addresses[0], *args, **more)
    )
    rules = AllowList.parse("gpu1.lab:40000")
    assert rules.check("GPU1.lab", 40000) == "10.1.2.3"
    addresses[0] = address
    with pytest.raises(AddressRefused, match="a name that it lists does not stand for loopback"):
        rules.check("gpu1.lab", 40000, loopback=False)
    named_and_numbered = AllowList.parse(f"gpu1.lab [{address}]")
    assert named_and_numbered.check("gpu1.lab", 1, loopback=False)


@pytest.mark.parametrize("text", ["http://x", "10.1.0.0/99", "a b/c", "gpu_1!"])
def test_a_rule_that_is_none_is_told(text: str) -> None:
    with pytest.raises(ConfigurationError, match="HELIOGRAPH_WORKER_ADDRESSES"):
        AllowList.parse(text)
