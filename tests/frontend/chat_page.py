"""A headless Chromium and the chat page as a person sees it: labels and button names only."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import BrowserContext, Locator, Page, expect, sync_playwright

from tests.stack import until

expect.set_options(timeout=15_000)  # a busy machine takes its time
FLAGS = ["--no-sandbox", "--disable-quic", "--disable-background-networking", "--disable-gpu"]

# Every state of the newest answer, kept by the browser itself: polling would miss some.
_WATCH = """() => {
  window.seen = [];
  const note = () => {
    const bots = document.querySelectorAll('#chat [data-testid="bot"]');
    const text = bots.length ? bots[bots.length - 1].innerText.trim() : '';
    if (text && text !== window.seen[window.seen.length - 1]) window.seen.push(text);
  };
  new MutationObserver(note).observe(
    document, {childList: true, subtree: true, characterData: true});
}"""


# Browsers let what tabs in the background do again and again rest; such a tab hears of nothing.
# What it has asked for before is told first.
_TIMERS = """
window.timers = [];
const repeat = window.setInterval;
window.setInterval = (...wanted) => {
  const timer = repeat(...wanted);
  window.timers.push(timer);
  return timer;
};
"""
_REST = """async () => {
  window.timers.forEach((timer) => clearInterval(timer));
  const ended = () => window.received.join("").split('"msg":"process_completed"').length - 1;
  for (let end = performance.now() + 15000; ended() < window.asked; ) {
    if (performance.now() > end) throw Error(`${ended()} of ${window.asked} events have ended`);
    await new Promise((done) => setTimeout(done, 50));
  }
}"""


# Every reply of the server, in `window.received`; streams piece by piece. And how many events were
# asked for.
_LISTEN = """
window.received = [];
window.asked = 0;
const ask = window.fetch;
window.fetch = async (...request) => {
  window.asked += String(request[0].url ?? request[0]).includes('/queue/join');
  const reply = await ask(...request);
  const copy = reply.clone();
  (async () => {
    if (!copy.body) return;
    const reader = copy.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let piece = await reader.read(); !piece.done; piece = await reader.read())
      window.received.push(piece.value);
  })().catch(() => {});  // the page itself breaks streams off
  return reply;
};
for (const Source of [window.EventSource, window.WebSocket])
  window[Source.name] = class extends Source {
    constructor(...address) {
      super(...address);
      this.addEventListener('message', (event) => window.received.push(event.data));
    }
  };
"""


# What was being changed has been painted.
_PAINTED = """() => new Promise((done) =>
  requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done))))"""


@contextmanager
def chromium(*flags: str) -> Iterator[BrowserContext]:
    """A profile of the system's Chromium, whose tabs share a cache, with more flags if given.

    A machine without Chromium fails the test instead of skipping it.
    """
    binary = shutil.which("chromium")
    assert binary, "the chat page's tests need Chromium: apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=binary, args=[*FLAGS, *flags])
        yield browser.new_context()
        browser.close()


class ChatPage:
    """One tab of the chat page."""

    def __init__(
        self, browser: BrowserContext, address: str, *, width: int = 1100, height: int = 900
    ) -> None:
        self.page: Page = browser.new_page()
        self.page.set_viewport_size({"width": width, "height": height})
        self.page.add_init_script(_TIMERS)
        self.address = address
        self.errors: list[str] = []
        self.foreign: list[str] = []
        self._is_leaving = False
        self.page.on("console", lambda m: self._note_error(m.text) if m.type == "error" else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self._note_request(request.url))

    def _note_error(self, text: str) -> None:
        """A page that is left in the middle of a request says that it was cut off; it was."""
        if not self._is_leaving:
            self.errors.append(text)

    def _note_request(self, url: str) -> None:
        if not url.startswith((self.address, "data:", "blob:")):
            self.foreign.append(url)

    def open(self, query: str = "", model: str | None = None) -> ChatPage:
        """Load the page and wait until it is ready, with `model` chosen."""
        self.page.evaluate("0")  # what was said up to now counts
        self._is_leaving = True
        self.page.goto(self.address + "/" + query, wait_until="commit")
        self._is_leaving = False
        expect(self.button("Send")).to_be_enabled(timeout=20_000)
        if model is not None:
            expect(self.model).to_have_value(model, timeout=10_000)
        self.page.evaluate(_WATCH)
        return self

    def come_back(self, chat_id: str) -> None:
        """Load a chat whose answer is being written."""
        self.page.goto(f"{self.address}/?chat={chat_id}")
        expect(self.button("Stop")).to_be_enabled(timeout=20_000)
        self.page.evaluate(_WATCH)
        self.errors.clear()  # Gradio logs the connections that a reload breaks off

    def rest(self) -> None:
        """Be a tab in the background from now on; it must listen."""
        self.page.evaluate(_REST)

    def listen(self) -> None:
        """Keep what the server will tell, from the next page on."""
        self.page.add_init_script(_LISTEN)

    def received(self) -> str:
        """All that the server has told, and the page as it is."""
        replies: Sequence[str] = self.page.evaluate("window.received")
        return "".join(replies) + self.page.content()

    def button(self, name: str) -> Locator:
        return self.page.get_by_role("button", name=name, exact=True)

    @property
    def model(self) -> Locator:
        return self.page.get_by_label("Model", exact=True)

    @property
    def message(self) -> Locator:
        return self.page.get_by_label("Message", exact=True)

    @property
    def line(self) -> Locator:
        return self.page.locator("#line")

    @property
    def answers(self) -> Locator:
        return self.page.locator('#chat [data-testid="bot"]')

    @property
    def questions(self) -> Locator:
        return self.page.locator('#chat [data-testid="user"]')

    @property
    def seen(self) -> list[str]:
        """Every state of the newest answer since the page was opened."""
        states: list[str] = self.page.evaluate("window.seen")
        return states

    def ask(self, text: str) -> None:
        """Type a message and press Enter."""
        self.message.fill(text)
        self.message.press("Enter")

    @property
    def limits(self) -> Locator:
        return self.page.locator("#limits")

    @property
    def attached(self) -> Locator:
        """The thumbnails of what is sent with the message."""
        return self.page.locator("#message").get_by_role("listitem")

    def upload(self, *paths: Path) -> None:
        """Choose files for the message and wait until they are in its box."""
        before = self.attached.count()
        self.page.locator("#message input[type=file]").set_input_files(paths)
        expect(self.attached).to_have_count(before + len(paths))

    def remove(self, place: int) -> None:
        """Take one of the files, counted from 1, out of the message's box."""
        before = self.attached.count()
        self.attached.nth(place - 1).get_by_role("button", name="Remove file").click()
        expect(self.attached).to_have_count(before - 1)

    def set_slider(self, label: str, value: float) -> None:
        self.set_sliders({label: value})

    def set_sliders(self, values: Mapping[str, float]) -> None:
        first = self.page.get_by_label(f"number input for {next(iter(values))}")
        if not first.is_visible():
            self.page.get_by_role("button", name="Parameters").click()

        def moved() -> bool:
            """Gradio takes back what is typed while it is still putting the sliders together."""
            for label, value in values.items():
                box = self.page.get_by_label(f"number input for {label}")
                box.fill(str(value))
                box.press("Tab")
            self.page.evaluate(_PAINTED)
            return all(
                self.page.get_by_label(f"{kind} for {label}").input_value() == str(value)
                for label, value in values.items()
                for kind in ("range slider", "number input")
            )

        until(moved, f"these are set: {dict(values)}")

    def expect_buttons(self, *enabled: str, timeout_ms: float = 10_000) -> None:
        """Exactly these buttons can be pressed."""
        names = ("Send", "Stop", "Regenerate", "Clear", "Upvote", "Downvote", "Flag")
        for name in names:
            expect(self.button(name)).to_be_enabled(enabled=name in enabled, timeout=timeout_ms)

    def close(self) -> None:
        """Close the tab; it must have asked no other host for anything and logged no error."""
        self.page.close()
        assert not self.foreign, f"the page asked other hosts: {self.foreign}"
        assert not self.errors, f"the browser's console has errors: {self.errors}"


ANSWERED = ("Send", "Regenerate", "Clear", "Upvote", "Downvote", "Flag")
"""What can be pressed after an answer."""
