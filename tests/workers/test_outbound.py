"""HTTP to addresses that somebody else named."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
from collections.abc import Coroutine
from typing import Any

import pytest

from broker.addresses import AddressRefused, AllowList
from broker.errors import UpstreamFailed
from tests.scripted import Exchange, scripted
from tests.stack import free_port
from workers.outbound import MAX_LOOKUPS, MAX_REPLY, AllowedBackend, ask, open_client


def asked(url: str, timeout_s: float = 2.0, rules: str = "") -> dict[str, Any]:
    async def go() -> dict[str, Any]:
        async with open_client(AllowList.parse(rules), 5.0) as client:
            answer, _ = await ask(client, url, {"a": 1}, timeout_s)
            return answer

    return asyncio.run(go())


def failed(exchange: Coroutine[Any, Any, object]) -> Exception:
    async def go() -> Exception:
        with pytest.raises(Exception) as raised:
            await exchange
        return raised.value

    return asyncio.run(go())


def test_an_object_is_asked_for_and_answered() -> None:
    with scripted({"/status": lambda e: e.reply(200, {"got": e.body})}) as server:
        assert asked(f"{server.url}/status") == {"got": {"a": 1}}
        (seen,) = server.seen
        assert seen.headers["Accept-Encoding"] == "identity"


def test_the_environments_proxy_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    with scripted({"/": lambda e: e.reply(200, {"direct": True})}) as server:
        assert asked(f"{server.url}/") == {"direct": True}


def redirect(exchange: Exchange) -> None:
    exchange.reply(302, b"", Location="http://127.0.0.1:1/")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (redirect, "answered with a redirect, which is not followed"),
        (lambda e: e.reply(404, {}), "answered with HTTP status 404"),
        (lambda e: e.reply(200, b"<html>"), "did not answer in JSON"),
        (lambda e: e.reply(200, [1]), "did not answer with a JSON object"),
        (lambda e: e.reply(200, b"a" * (MAX_REPLY + 1)), "sent more than 1,048,576 bytes"),
        (lambda e: e.left(), "did not answer in time"),
        (lambda e: e.handler.connection.close(), "in the middle of an answer"),
    ],
)
def test_other_answers_are_errors_that_say_what_they_were(answer: Any, words: str) -> None:
    def guarded(exchange: Exchange) -> None:
        with contextlib.suppress(OSError, ValueError):
            answer(exchange)
        exchange.handler.close_connection = True

    with scripted({"/": guarded}) as server, pytest.raises(UpstreamFailed) as raised:
        asked(f"{server.url}/", 0.5)
    assert words in str(raised.value)


def test_nobody_there() -> None:
    with pytest.raises(UpstreamFailed, match="cannot be connected to"):
        asked(f"http://127.0.0.1:{free_port()}/")


def test_what_is_not_allowed_is_refused_before_a_connection() -> None:
    with pytest.raises(UpstreamFailed, match=r"may not be called: 169\.254\.169\.254:80 is not"):
        asked("http://169.254.169.254/", 10.0)
    with pytest.raises(UpstreamFailed, match="cannot be resolved"):
        asked("http://no-such-host.invalid/", 10.0)


def test_names_that_are_not_resolved_hold_up_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """Name resolution belongs to the machine, so it is what is replaced here."""
    found = threading.Event()
    resolve = socket.getaddrinfo

    def slow(host: Any, *args: Any, **more: Any) -> Any:
        if host == "slow.lab":
            found.wait()
            raise socket.gaierror
        return resolve(host, *args, **more)

    monkeypatch.setattr(socket, "getaddrinfo", slow)

    async def go(url: str) -> dict[str, Any]:
        try:
            async with open_client(AllowList(), 5.0) as client:
                many = (ask(client, "http://slow.lab/", {}, 0.2) for _ in range(MAX_LOOKUPS - 1))
                given_up = await asyncio.gather(*many, return_exceptions=True)
                assert {str(each) for each in given_up} == {"did not answer in time"}
                await asyncio.wait_for(asyncio.to_thread(str), 5)
                answer, _ = await ask(client, url, {}, 5.0)
                return answer
        finally:
            found.set()

    with scripted({"/": lambda e: e.reply(200, {"still": "here"})}) as server:
        assert asyncio.run(go(f"{server.url}/")) == {"still": "here"}


def test_sockets_in_the_file_system_are_refused() -> None:
    backend = AllowedBackend(AllowList())
    assert isinstance(failed(backend.connect_unix_socket("/tmp/x")), AddressRefused)


def test_tls_verifies_the_name_that_was_asked_for() -> None:
    async def context() -> Any:
        async with open_client(AllowList(), 1.0) as client:
            transport: Any = client._transport
            return transport._pool._ssl_context

    found = asyncio.run(context())
    assert found.check_hostname and found.verify_mode is ssl.CERT_REQUIRED
