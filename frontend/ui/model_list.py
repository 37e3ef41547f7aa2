"""The list of models beside the chat, brought up to date while the page is open."""

from __future__ import annotations

from contextlib import suppress

import gradio as gr

from broker.errors import ChatNotFound, HeliographError
from frontend.service import Service
from frontend.ui import wording
from frontend.ui.shown import Outputs, owner


class ModelList:
    """Which models may be chosen, and which one is at first."""

    def __init__(self, service: Service) -> None:
        """Use the service."""
        self._service = service

    def refresh(self, chosen: str | None, known: list[str], request: gr.Request) -> Outputs:
        """Bring the list of models up to date. Gives dropdown, notice and the list.

        What is chosen stays chosen, even when its workers are gone; at first that is the chat's,
        else `?model=` of the address.
        """
        try:
            live = [model.name for model in self._service.models()]
            wanted = chosen or self._model_of(request)
        except HeliographError as failure:
            return gr.skip(), wording.error(failure.body), gr.skip()
        notice = wording.missing(wanted, live)
        if live == known and chosen:
            return gr.skip(), notice, gr.skip()
        value = wanted if wanted in live or chosen else next(iter(live), None)
        choices = sorted({*live, value}) if value else []
        return gr.update(choices=choices, value=value), notice, live

    def _model_of(self, request: gr.Request) -> str | None:
        """The model that the address asks for."""
        asked = dict(request.query_params)
        if asked.get("chat"):
            with suppress(ChatNotFound):
                return self._service.chats.read(owner(request), asked["chat"]).model
        return asked.get("model")
