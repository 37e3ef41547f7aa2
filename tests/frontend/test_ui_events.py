"""What a tab asks for is answered: beside many other tabs, and whatever becomes of its streams."""

from __future__ import annotations

from collections import Counter

import pytest
from playwright.sync_api import BrowserContext, expect

from tests.frontend.chat_page import ANSWERED, ChatPage
from tests.stack import Stack

TABS = 6
"""More than the connections that a browser opens to a host, each of which a tab's stream holds."""

# As in a network whose proxies know no web sockets.
_NO_SOCKETS = """
window.WebSocket = class extends EventTarget {
  constructor() {
    super();
    setTimeout(() => this.onerror(new Event('error')));
  }
};
"""

# Holds the next end of a stream back until `window.release` is called.
_HOLD = """
const ask = window.fetch;
window.fetch = async (...request) => {
  const reply = await ask(...request);
  if (!String(request[0].url ?? request[0]).includes('/queue/data')) return reply;
  const decoder = new TextDecoder();
  const hold = new TransformStream({
    async transform(piece, controller) {
      if (window.hold && decoder.decode(piece).includes('close_stream')) {
        window.hold = false;
        await new Promise((done) => (window.release = done));
      }
      controller.enqueue(piece);
    },
  });
  return new Response(reply.body.pipeThrough(hold), reply);
};
"""

# Keeps the web sockets, to cut them off.
_KEEP = """
window.sockets = [];
window.cut = () => Promise.all(window.sockets.map((socket) => new Promise((done) => {
  socket.addEventListener('close', done);
  socket.close();
})));
const Socket = window.WebSocket;
window.WebSocket = class extends Socket {
  constructor(...address) {
    super(...address);
    window.sockets.push(this);
  }
};
"""


@pytest.fixture(scope="module")
def address(echo_stack: Stack) -> str:
    echo_stack.echo_worker("tokens_per_s=4&tokens=2000", **{"model-name": "slow"})
    echo_stack.echo_worker()
    return echo_stack.ui()


def test_all_of_many_tabs_are_answered_at_once(browser: BrowserContext, address: str) -> None:
    tabs = []
    for number in range(TABS):
        tab = ChatPage(browser, address)
        tabs.append(tab.open("?model=slow", model="slow"))
        tab.ask(f"from tab {number}")
        expect(tab.answers).to_contain_text(f"from tab {number} from")
    for tab in tabs:
        tab.button("Stop").click()
        tab.expect_buttons(*ANSWERED)
        tab.close()


@pytest.mark.parametrize("is_taken", [True, False])
def test_without_web_sockets_an_event_is_told_of_although_its_stream_had_ended(
    chat: ChatPage, is_taken: bool
) -> None:
    chat.listen()
    chat.page.add_init_script(_NO_SOCKETS)
    chat.page.add_init_script(_HOLD)
    chat.open("?model=echo", model="echo")
    chat.rest()  # nothing else asks for another stream
    chat.page.evaluate("window.hold = true")
    chat.page.get_by_label("Search chats").fill("ships")
    chat.page.wait_for_function("Boolean(window.release)")
    with chat.page.expect_response("**/queue/join*"):
        chat.ask("hello")
        if not is_taken:
            chat.page.evaluate("window.release()")
    chat.page.evaluate("window.release()")
    expect(chat.answers).to_contain_text("hello")
    chat.expect_buttons(*ANSWERED)


def test_a_tab_whose_connection_is_cut_off_goes_on(chat: ChatPage) -> None:
    chat.page.add_init_script(_KEEP)
    chat.open("?model=slow", model="slow")
    chat.ask("hello")
    expect(chat.answers).to_contain_text("hello hello")
    chat.page.evaluate("() => { window.isOld = true; window.cut(); }")
    chat.page.wait_for_function("!window.isOld")  # the page is loaded again
    expect(chat.answers).to_contain_text("hello hello")
    expect(chat.button("Stop")).to_be_enabled(timeout=20_000)
    chat.button("Stop").click()
    chat.expect_buttons(*ANSWERED)
    chat.errors.clear()  # Gradio logs what was broken off


def test_a_tab_at_rest_does_not_mind_being_cut_off(chat: ChatPage) -> None:
    chat.listen()
    chat.page.add_init_script(_KEEP)
    chat.open("?model=echo", model="echo")
    chat.message.fill("being written")
    chat.rest()
    chat.page.evaluate("window.cut()")
    chat.page.request.get(chat.address)  # the server has noticed
    chat.message.press("Enter")
    expect(chat.answers).to_contain_text("being written")
    chat.expect_buttons(*ANSWERED)
    chat.errors.clear()


def test_no_two_that_follow_a_change_wait_for_their_turn(
    browser: BrowserContext, address: str
) -> None:
    """Gradio would have each start the other again, without end."""
    waiting: Counter[tuple[int, str]] = Counter()
    for part in browser.request.get(f"{address}/config").json()["dependencies"]:
        if part["backend_fn"] and part["trigger_mode"] == "always_last":
            waiting.update(map(tuple, part["targets"]))
    assert waiting, "some do"
    assert max(waiting.values()) == 1
