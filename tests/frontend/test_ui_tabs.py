"""Who owns what a browser asks for: the cookie that the page's server sets."""

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from broker import keys
from frontend.ui import tabs
from frontend.ui.web import OwnerCookie


def browser(address: str) -> TestClient:
    """A browser that keeps cookies, and a page that says whose it is."""

    def page(request: Request) -> PlainTextResponse:
        return PlainTextResponse(tabs.owner(request.cookies, "tab"))

    routes = [Route("/", page), Route("/config", page)]
    return TestClient(Starlette(routes=routes, middleware=[Middleware(OwnerCookie)]), address)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_the_page_brings_a_cookie_that_scripts_do_not_see(scheme: str) -> None:
    cookie = browser(f"{scheme}://test").get("/").headers["set-cookie"]
    assert f"{tabs.COOKIE}=" in cookie
    parts = {part.strip().lower() for part in cookie.split(";")[1:]}
    assert {"httponly", "samesite=lax", "path=/", f"max-age={keys.CHAT_TTL_S}"} <= parts
    assert ("secure" in parts) == (scheme == "https")


def test_a_browser_stays_the_same_owner_and_another_is_another() -> None:
    one, other = browser("http://test"), browser("http://test")
    for each in (one, other):
        each.get("/")
    owner = one.get("/config").text
    cookie = one.cookies[tabs.COOKIE]
    assert one.get("/").text == owner and one.cookies[tabs.COOKIE] == cookie
    assert other.get("/config").text != owner
    assert cookie not in owner


def test_only_the_page_itself_brings_the_cookie() -> None:
    assert "set-cookie" not in browser("http://test").get("/config").headers


@pytest.mark.parametrize("value", ["", "short", "x" * 44, "é" * 43, "a b" + "x" * 40])
def test_what_is_no_token_makes_no_owner(value: str) -> None:
    without = tabs.owner({}, "tab 1")
    assert tabs.owner({tabs.COOKIE: value}, "tab 1") == without
    assert tabs.owner({}, "tab 2") != without
    token = tabs.new_token()
    assert tabs.owner({tabs.COOKIE: token}, "tab 1") == tabs.owner({tabs.COOKIE: token}, "tab 2")
