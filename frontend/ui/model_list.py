"""The list of models beside the chat, brought up to date while the page is open."""

from __future__ import annotations

from contextlib import suppress

import gradio as gr

from broker.errors import ChatNotFound, HeliographError
from frontend.model_order import place
from frontend.service import Service
from frontend.ui import wording
from frontend.ui.shown import Outputs, owner


class ModelList:
    """Which models may be chosen, and which one is at first."""

    def __init__(self, service: Service) -> None:
        """Use the service; its settings say whether the list follows what is served."""
        self._service = service
        self._is_kept = service.settings.model_list_mode == "once"
        self._kept: list[str] = []

    def refresh(self, chosen: str | None, known: list[str], request: gr.Request) -> Outputs:
        """Bring the list of models up to date. Gives dropdown, notice, the list and who is ready.

        What is chosen stays chosen, even when its workers are gone; at first that is the chat's,
        else `?model=` of the address.
        """
        try:
            models = self._service.fleet.models()
            live = [model.name for model in models]
            listed = self._listed(live)
            wanted = chosen or self._model_of(request)
        except HeliographError as failure:
            return gr.skip(), wording.error(failure.body), gr.skip(), gr.skip()
        ready = " ".join(model.name for model in models if model.ready)
        notice = wording.missing(wanted, live)
        if listed == known and chosen:
            return gr.skip(), notice, gr.skip(), ready
        value = chosen or _preferred(wanted, listed)
        choices = sorted({*listed, value}, key=place) if value else []
        return gr.update(choices=choices, value=value), notice, listed, ready

    def first(self, request: gr.Request) -> str | None:
        """The model that a page which does not show its list yet will have chosen.

        Raises:
            RedisUnavailable: Redis does not answer.
        """
        live = [model.name for model in self._service.fleet.models()]
        return _preferred(self._model_of(request), self._listed(live))

    def _listed(self, live: list[str]) -> list[str]:
        """What is served, or was when somebody first came while something was."""
        if not self._is_kept:
            return sorted(live, key=place)
        self._kept = self._kept or sorted(live, key=place)
        return self._kept

    def _model_of(self, request: gr.Request) -> str | None:
        """The model that the address asks for."""
        asked = dict(request.query_params)
        if asked.get("chat"):
            with suppress(ChatNotFound):
                return self._service.chats.read(owner(request), asked["chat"]).model
        return asked.get("model")


def _preferred(wanted: str | None, listed: list[str]) -> str | None:
    return wanted if wanted in listed else next(iter(listed), None)
