"""Where requests come from: what the logs say of it, and whose word is taken."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from playwright.sync_api import expect

from broker import exports, keys
from broker.proxies import behind, parse_networks
from tests.frontend.chat_page import ANSWERED, ChatPage, chromium
from tests.frontend.clients import body, post
from tests.stack import Stack, until

FORWARDED = "192.0.2.1, 198.51.100.7, 203.0.113.9"


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "proxies", "client"),
    [
        ("203.0.113.9", "", "", "203.0.113.9"),
        ("127.0.0.1", FORWARDED, "", "127.0.0.1"),
        ("127.0.0.1", FORWARDED, "127.0.0.1", "203.0.113.9"),
        ("127.0.0.1", FORWARDED, "127.0.0.1,203.0.113.0/24", "198.51.100.7"),
        ("10.1.2.3", FORWARDED, "10.1.0.0/16 203.0.113.9 198.51.100.7 192.0.2.1", "192.0.2.1"),
        ("10.2.2.3", FORWARDED, "10.1.0.0/16", "10.2.2.3"),
        ("127.0.0.1", "198.51.100.7, <b>unknown", "127.0.0.1", "127.0.0.1"),
        ("::ffff:127.0.0.1", "2001:DB8::1", "127.0.0.1", "2001:db8::1"),
        ("::1", "2001:db8::1", "127.0.0.1 fd00::/8", "::1"),
        ("", FORWARDED, "0.0.0.0/0", ""),
    ],
)
def test_a_proxy_is_believed_if_it_is_trusted(
    peer: str, forwarded_for: str, proxies: str, client: str
) -> None:
    assert behind(peer, forwarded_for, parse_networks(proxies, "HERE")) == client


def addresses(stack: Stack) -> list[tuple[str, str]]:
    """What an export in LLaVA's form says of chats and votes, in order of time."""
    return [(line["type"], line["ip"]) for line in exports.llava(stack.redis)]


@pytest.mark.parametrize(
    ("env", "client"),
    [
        ({}, "127.0.0.1"),
        ({"HELIOGRAPH_TRUSTED_PROXIES": "127.0.0.0/8"}, "203.0.113.9"),
        ({"HELIOGRAPH_TRUSTED_PROXIES": "127.0.0.0/8", "HELIOGRAPH_LOG_IP": "off"}, ""),
    ],
)
def test_the_chat_log_says_who_asked_the_api(
    stack: Stack, env: dict[str, str], client: str
) -> None:
    stack.echo_worker()
    api = stack.api(**env)
    reply = post(api, body("hello"), **{"X-Forwarded-For": FORWARDED})
    assert reply.status_code == 200
    until(lambda: stack.redis.xlen(keys.CHAT_LOG) == 1, "the chat is logged")
    assert addresses(stack) == [("chat", client)]
    job_id = reply.json()["id"].removeprefix("chatcmpl-")
    kept: Any = stack.redis.hget(keys.job(job_id), "ip")
    assert (kept or b"").decode() == client
    asked = {"model": "echo", "prompt": "hello again"}
    httpx.post(f"{api}/worker_generate", json=asked, headers={"X-Forwarded-For": FORWARDED})
    until(lambda: stack.redis.xlen(keys.CHAT_LOG) == 2, "this one too")
    assert addresses(stack) == [("chat", client)] * 2


def test_the_logs_say_who_asked_and_voted_on_the_page(stack: Stack) -> None:
    stack.echo_worker()
    proxies = {"HELIOGRAPH_TRUSTED_PROXIES": "127.0.0.1, 203.0.113.0/24"}
    pages = (
        (stack.ui(), "127.0.0.1"),
        (stack.ui(**proxies), "198.51.100.7"),
        (stack.ui(**proxies, HELIOGRAPH_LOG_IP="off"), ""),
    )
    with chromium() as browser:
        for number, (address, client) in enumerate(pages, 1):
            tab = ChatPage(browser, address)
            tab.page.set_extra_http_headers({"X-Forwarded-For": FORWARDED})
            tab.open(model="echo").ask("Where am I?")
            tab.expect_buttons(*ANSWERED)
            until(lambda n=number: stack.redis.xlen(keys.CHAT_LOG) == n, "it is logged")  # type: ignore[misc]
            tab.button("Upvote").click()
            expect(tab.page.get_by_text("Thanks")).to_be_visible()
            assert addresses(stack)[-2:] == [("chat", client), ("upvote", client)]
            page = httpx.get(address, headers={"X-Forwarded-Proto": "https"})
            assert ("; Secure" in page.headers["Set-Cookie"]) == (number > 1)
            tab.close()
