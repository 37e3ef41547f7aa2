"""The terms of use: what they say, and whether a browser has agreed to them.

A browser that agrees keeps a cookie with the digest of the text, so that other terms ask anew.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, Self

import gradio as gr

from broker.errors import ConfigurationError, InvalidRequest
from broker.settings import Settings
from frontend.ui.chats_panel import QUIET
from frontend.ui.language import label, say
from frontend.ui.markup import as_markdown

COOKIE: Final = "heliograph_terms"
_KEEP_S: Final = 365 * 24 * 3600


class NotAgreed(InvalidRequest):
    """The terms of use have not been agreed to in this browser."""

    status = 403
    code = "terms_not_agreed"


@dataclass(frozen=True, slots=True)
class Terms:
    """The text in Markdown, and whether nothing is sent without consent to it."""

    text: str
    need_consent: bool = False

    @classmethod
    def load(cls, settings: Settings) -> Self:
        """Read the operator's file, or the short text that comes with Heliograph.

        Raises:
            ConfigurationError: the file cannot be read, or is empty.
        """
        path = settings.terms
        file = Path(path) if path else files(__package__) / "terms.md"
        try:
            text = file.read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(
                f"HELIOGRAPH_TERMS={path!r} cannot be read ({type(error).__name__}): it must be a "
                "Markdown file in UTF-8."
            ) from None
        if not text:
            raise ConfigurationError(
                f"HELIOGRAPH_TERMS={path!r} is empty: write the terms into it."
            )
        return cls(text, settings.terms_consent == "on")

    @property
    def digest(self) -> str:
        """What the cookie of a browser that agreed holds."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    def check(self, cookies: Mapping[str, str]) -> None:
        """Let a browser send, by its cookies.

        Raises:
            NotAgreed: it has to agree first.
        """
        if self.need_consent and cookies.get(COOKIE) != self.digest:
            raise NotAgreed(
                say("Agree to the terms of use first: they stand at the end of the chat page.")
            )


class TermsPanel:
    """The terms, folded; open with a button where consent is needed and not yet given."""

    def __init__(self, demo: gr.Blocks, terms: Terms) -> None:
        """Build the components and set their events up."""
        with gr.Accordion(label("Terms of use"), open=False, elem_id="terms") as panel:
            gr.Markdown(as_markdown(terms.text))
            if not terms.need_consent:
                return
            agree = gr.Button(label("I agree to the terms of use"), visible=False, size="sm")

        def ask(request: gr.Request) -> tuple[Any, Any]:
            try:
                terms.check(request.cookies)
            except NotAgreed:
                return gr.update(open=True), gr.update(visible=True)
            return gr.update(open=False), gr.update(visible=False)

        demo.load(ask, None, [panel, agree], **QUIET)
        agree.click(ask, None, [panel, agree], js=_remember(terms.digest), **QUIET)


def _remember(digest: str) -> str:
    return f"""() => {{
      const secure = location.protocol === "https:" ? "; Secure" : "";
      document.cookie =
        "{COOKIE}={digest}; Max-Age={_KEEP_S}; Path=/; SameSite=Lax" + secure;
      return [];
    }}"""
