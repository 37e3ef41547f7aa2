"""Nobody but programs of this machine and holders of the token may register workers."""

from __future__ import annotations

import base64
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from flask.testing import FlaskClient

from broker import foreign
from frontend.api.app import create_app
from frontend.service import Service
from tests.frontend.originals import post, registration
from tests.stack import Stack, free_port

TOKEN = "s3cret:with:colons"
LISTED = "http://10.1.2.3:40000"
LOOPBACK = "http://127.0.0.1:40000"
OUTSIDE = "203.0.113.9"
SETTINGS = {"HELIOGRAPH_CONTROL_TOKEN": TOKEN, "HELIOGRAPH_WORKER_ADDRESSES": "10.1.0.0/16"}
HEART_BEAT = {"worker_name": LISTED, "queue_length": 0}


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def basic(token: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"any:{token}".encode()).decode()}


@pytest.fixture
def client(stack: Stack) -> Iterator[FlaskClient]:
    """An API that has a token and allows one network."""
    service = Service(stack.settings(**SETTINGS))
    yield create_app(service.settings, service).test_client()
    service.close()


def register(
    client: FlaskClient, address: str, peer: str, headers: dict[str, str] | None = None
) -> Any:
    said = registration(address, "m")
    return client.post(
        "/register_worker", json=said, headers=headers, environ_base={"REMOTE_ADDR": peer}
    )


def names(stack: Stack) -> list[str]:
    return [worker.address for worker in foreign.workers(stack.redis)]


@pytest.mark.parametrize("headers", [bearer(TOKEN), basic(TOKEN)])
def test_the_token_lets_another_machine_register_a_listed_address(
    stack: Stack, client: FlaskClient, headers: dict[str, str]
) -> None:
    accepted = register(client, LISTED, OUTSIDE, headers)
    assert (accepted.status_code, accepted.data) == (200, b"null")
    assert names(stack) == [LISTED]
    beat = client.post(
        "/receive_heart_beat",
        json=HEART_BEAT,
        headers=headers,
        environ_base={"REMOTE_ADDR": OUTSIDE},
    )
    assert beat.json == {"exist": True}


@pytest.mark.parametrize(
    "headers",
    [
        {}, bearer("wrong"), bearer(""), bearer(TOKEN[:-1]), bearer(TOKEN + "x"), basic("wrong"),
        basic(""), {"Authorization": "Basic !"}, {"Authorization": "Bearer"},
        {"Authorization": TOKEN}, {"X-Token": TOKEN}, {"X-Forwarded-For": "127.0.0.1"},
    ],
)  # fmt: skip
@pytest.mark.parametrize("route", ["/register_worker", "/receive_heart_beat", "/withdraw_worker"])
def test_without_it_another_machine_is_refused(
    stack: Stack, client: FlaskClient, headers: dict[str, str], route: str
) -> None:
    said = registration(LISTED, "m") | HEART_BEAT
    peer = {"REMOTE_ADDR": OUTSIDE}
    refused = client.post(route, json=said, headers=headers, environ_base=peer)
    assert refused.status_code == 403
    assert refused.json is not None
    assert refused.json["error"]["code"] == "control_plane_closed"
    assert TOKEN not in refused.text
    assert names(stack) == []


def test_without_a_set_token_no_token_is_right(stack: Stack) -> None:
    service = Service(stack.settings(HELIOGRAPH_WORKER_ADDRESSES="10.1.0.0/16"))
    client = create_app(service.settings, service).test_client()
    for headers in ({}, bearer(""), basic("")):
        assert register(client, LISTED, OUTSIDE, headers).status_code == 403
    service.close()


@pytest.mark.parametrize("peer", ["127.0.0.1", "::1", "::ffff:127.0.0.1", "127.3.2.1"])
def test_a_program_of_this_machine_needs_no_token(
    stack: Stack, client: FlaskClient, peer: str
) -> None:
    assert register(client, LOOPBACK, peer).status_code == 200
    assert register(client, "http://localhost:40001", peer).status_code == 200
    assert names(stack) == [LOOPBACK, "http://localhost:40001"]


@pytest.mark.parametrize(
    "header",
    ["X-Forwarded-For", "X-Forwarded-Host", "Forwarded", "Via", "X-Real-IP", "Origin",
     "Sec-Fetch-Site"],
)  # fmt: skip
def test_a_proxy_or_a_browser_on_this_machine_is_not_its_program(
    stack: Stack, client: FlaskClient, header: str
) -> None:
    refused = register(client, LOOPBACK, "127.0.0.1", {header: "null"})
    assert refused.status_code == 403
    assert names(stack) == []


def test_the_token_does_not_open_loopback_to_other_machines(
    stack: Stack, client: FlaskClient
) -> None:
    addresses = (
        LOOPBACK, "http://localhost:1", "http://[::1]:1", "http://[::ffff:127.0.0.1]:1",
        "http://2130706433:1", "http://0.0.0.0:1", "http://127.1:6379",
    )  # fmt: skip
    for address in addresses:
        refused = register(client, address, OUTSIDE, bearer(TOKEN))
        assert (refused.status_code, refused.json["error"]["code"]) == (403, "address_refused")
        through_proxy = {**bearer(TOKEN), "X-Forwarded-For": OUTSIDE}
        assert register(client, address, "127.0.0.1", through_proxy).status_code == 403
    assert names(stack) == []


@pytest.mark.parametrize(
    "host",
    ["169.254.169.254", "192.168.0.1", "10.2.0.1", "172.17.0.1", "8.8.8.8",
     "[::ffff:169.254.169.254]", "[fe80::1]", "[fd00:ec2::254]", "2852039166", "0xa9fea9fe"],
)  # fmt: skip
def test_an_address_that_is_not_listed_is_refused_to_everybody(
    stack: Stack, client: FlaskClient, host: str
) -> None:
    for peer in ("127.0.0.1", OUTSIDE):
        refused = register(client, f"http://{host}:80", peer, bearer(TOKEN))
        assert (refused.status_code, refused.json["error"]["code"]) == (403, "address_refused")
    assert names(stack) == []


@pytest.mark.parametrize(
    "address",
    ["http://any:x@10.1.2.3:1", "http://10.1.2.3:1@127.0.0.1:1", "http://10.1.2.3:1/admin?",
     "http://10.1.2.3:1/a", "gopher://10.1.2.3:1", "unix:///run/docker.sock", "http://10.1.2.3\t:1",
     "http://[::1"],
)  # fmt: skip
def test_an_odd_address_is_refused(stack: Stack, client: FlaskClient, address: str) -> None:
    refused = register(client, address, "127.0.0.1")
    assert (refused.status_code, refused.json["error"]["param"]) == (400, "worker_name")
    assert names(stack) == []


def test_an_unmodified_worker_tells_the_token_in_its_controllers_address(stack: Stack) -> None:
    """`requests` turns http://any:TOKEN@host:port into an Authorization header of its own."""
    api = stack.api(**SETTINGS)
    said = registration(LISTED, "m")
    through_proxy = {"X-Forwarded-For": OUTSIDE}
    assert post(api, "/register_worker", said, **through_proxy).status == 403
    accepted = post(api, "/register_worker", said, **through_proxy, **basic(TOKEN))
    assert (accepted.status, accepted.body) == (200, b"null")


def test_a_peer_on_a_real_outer_address_is_refused(stack: Stack) -> None:
    own = outer_address()
    api = stack.api(HELIOGRAPH_HOST="0.0.0.0")
    port = api.rpartition(":")[2]
    for address in (f"http://{own}:{port}", api):
        status = post(address, "/register_worker", registration(LOOPBACK, "m")).status
        assert status == (200 if address == api else 403)


def outer_address() -> str:
    """An address of this machine that is not loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", free_port()))  # sends nothing
        except OSError:
            pytest.skip("this machine has no address but loopback")
        own: str = probe.getsockname()[0]
    return own
