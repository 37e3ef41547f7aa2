"""What a tab asks for while the server ends a stream of replies is answered all the same."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from tests.frontend.chat_page import ANSWERED, ChatPage
from tests.stack import Stack

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


@pytest.fixture(scope="module")
def address(echo_stack: Stack) -> str:
    echo_stack.echo_worker()
    return echo_stack.ui()


@pytest.mark.parametrize("is_taken", [True, False])
def test_an_event_is_told_of_although_its_stream_had_ended(chat: ChatPage, is_taken: bool) -> None:
    chat.listen()
    chat.page.add_init_script(_HOLD)
    chat.open(model="echo")
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
