"""The signatures of Gradio's components, which it asks for again and again."""

from __future__ import annotations

import inspect

from gradio.components import Button, Chatbot

from frontend.ui.sparing import keep_signatures


def test_they_are_found_out_once_and_stay_what_they_were() -> None:
    before = signatures()
    keep_signatures([Button(), Chatbot()])
    assert signatures() == before
    first, again = signatures(), signatures()
    assert all(each is same for each, same in zip(first, again, strict=True))


def signatures() -> list[inspect.Signature]:
    return [inspect.signature(kind.__init__) for kind in (Button, Chatbot)]
