"""The events of the chat page: each method is one, and gives values for Gradio's components.

The only module where errors become lines on the page. A question runs as three events in a row:
`send` or `regenerate` (puts the job on its queue), `stream` (shows the answer grow) and `settle`
(sets the buttons). Layout is none of its business.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import gradio as gr
from pydantic import ValidationError

from broker.connection import redis_errors
from broker.errors import HeliographError, InvalidRequest, WorkerFailed
from broker.feedback import Vote
from broker.messages import GenerateRequest, ImageProcessMode, SamplingParams
from broker.readers import new_reader
from frontend.service import Service
from frontend.ui import answer, wording
from frontend.ui.conversation import Controls, Conversation, Phase, Session
from frontend.ui.markup import render
from frontend.ui.uploads import Upload, Uploads

log = logging.getLogger(__name__)

Outputs = tuple[Any, ...]
Mode = ImageProcessMode | Literal[""]
Parameters = tuple[float, float, int, int, Mode]
"""Temperature, top-p, most output tokens, most input tiles (or 0), images' process mode (or "")."""


class Handlers:
    """What the page's events do; one for all tabs, each of which brings its own `Session`."""

    def __init__(self, service: Service, uploads: Path) -> None:
        """Use the service; read no file but those under `uploads`."""
        self._service = service
        self._uploads = Uploads(service, uploads)
        self._readers = service.readers
        self._rule = f"grace:{service.settings.ui_grace_s}"
        self._reading: dict[str, tuple[str, str]] = {}  # by tab: the job, and who reads it

    def send(
        self,
        session: Session,
        model: str | None,
        text: str | None,
        picture: Upload | None,
        temperature: float,
        top_p: float,
        max_tokens: int,
        max_tiles: int,
        mode: Mode,
        request: gr.Request,
    ) -> Outputs:
        """Ask. Gives chat, message, picture, line and buttons; an empty message changes nothing.

        What is refused stays out of the conversation and in its boxes.
        """
        text = text or ""
        if session.phase == "answering" or not (text.strip() or picture):
            return _unchanged(4 + BUTTONS)
        before = session.conversation
        chosen = (temperature, top_p, max_tokens, max_tiles, mode)
        try:
            images = (self._uploads.store(picture),) if picture else ()
            session.conversation = before.ask(text, images)
            line = self._submit(session, model, chosen, request)
        except Exception as failure:
            session.conversation = before
            return (gr.skip(), gr.skip(), gr.skip(), _line(failure), *buttons(session.phase))
        return (render(session.conversation), "", None, line, *buttons(session.phase))

    def regenerate(
        self,
        session: Session,
        model: str | None,
        temperature: float,
        top_p: float,
        max_tokens: int,
        max_tiles: int,
        mode: Mode,
        request: gr.Request,
    ) -> Outputs:
        """Ask the last question again. Gives chat, line and buttons."""
        if session.phase == "answering" or not session.conversation.messages:
            return _unchanged(2 + BUTTONS)
        before = session.conversation
        chosen = (temperature, top_p, max_tokens, max_tiles, mode)
        try:
            session.conversation = before.without_answer()
            line = self._submit(session, model, chosen, request)
        except Exception as failure:
            session.conversation = before
            return (gr.skip(), _line(failure), *buttons(session.phase))
        return (render(session.conversation), line, *buttons(session.phase))

    def _submit(
        self, session: Session, model: str | None, chosen: Parameters, tab: gr.Request
    ) -> str:
        """Put the conversation on the model's queue; return the line to show.

        Raises:
            InvalidRequest: it cannot be asked like this. What may work later is not raised: the
                question stays and may be asked again.
        """
        if not model:
            raise InvalidRequest(wording.NO_MODEL, param="model")
        reader = new_reader()
        try:
            job = self._service.submit(
                model,
                session.conversation.messages,
                _sampling(*chosen),
                on_disconnect=self._rule,
                reader=reader,
            )
        except InvalidRequest:
            raise
        except Exception as failure:
            session.request, session.phase = None, "failed"
            return _line(failure)
        session.request, session.phase = job, "answering"
        self._reading[tab.session_hash or ""] = job.id, self._readers.arrive(job.id, reader)
        return wording.note("sent")

    def stream(self, session: Session, request: gr.Request) -> Iterator[Outputs]:
        """Show the answer grow. Gives chat and line.

        Gradio closes this generator when the tab is gone; then nobody reads the job any more.
        """
        job = session.request
        if job is None or session.phase != "answering":
            # Gradio empties the outputs of a generator that yields nothing.
            yield _unchanged(2)
            return
        asked = session.conversation
        phase: Phase = "answering"
        try:
            for update in answer.follow(self._service, job, lambda: len(self._reading)):
                session.conversation = asked.answer(update.text)
                if update.end or update.error:
                    phase = "answered" if update.end and update.text else "failed"
                line = wording.note(update.line)
                if update.error:
                    line = wording.error(update.error, job.id)
                yield render(asked, update.text), line
        except Exception as failure:
            phase = "failed"
            yield render(session.conversation), _line(failure, job)
        finally:
            if phase == "failed":
                self._cancel(job.id)
            self._end_reading(request.session_hash or "", ended=phase != "answering")
            session.phase = "failed" if phase == "answering" else phase

    def settle(self, session: Session) -> Outputs:
        """Set the buttons to what may be done now."""
        return buttons(session.phase)

    def stop(self, request: gr.Request) -> None:
        """Cancel this tab's job; its stream then ends with what has been said."""
        reading = self._reading.get(request.session_hash or "")
        if reading is not None:
            self._cancel(reading[0])

    def leave(self, request: gr.Request) -> None:
        """Read no longer for a tab that was closed, reloaded or lost."""
        self._end_reading(request.session_hash or "", ended=False)

    def _end_reading(self, tab: str, *, ended: bool) -> None:
        """Give up a tab's lease, unless that was done; a job that goes on has its grace then."""
        job_id, reader = self._reading.pop(tab, ("", ""))
        if ended and reader:
            self._readers.release(reader)
        elif reader:
            try:
                with redis_errors():
                    self._readers.leave(reader)
            except HeliographError as failure:
                log.warning("Redis is told later that nobody reads job %s: %s", job_id, failure)

    def _cancel(self, job_id: str) -> None:
        try:
            self._service.cancel(job_id)
        except HeliographError as failure:
            log.warning("job %s could not be cancelled: %s", job_id, failure)

    def clear(self, session: Session) -> Outputs:
        """Begin a new conversation. Gives chat, message, picture, line and buttons."""
        if session.phase == "answering":
            return _unchanged(4 + BUTTONS)
        session.conversation, session.phase, session.request = Conversation(), "empty", None
        return ([], "", None, "", *buttons(session.phase))

    def vote(self, kind: Vote) -> Callable[[Session], Outputs]:
        """Make the event of a vote button. It gives line and buttons."""

        def cast(session: Session) -> Outputs:
            job = session.request
            if job is None or session.phase != "answered":
                return _unchanged(1 + BUTTONS)
            try:
                self._service.vote(job.id, kind)
            except Exception as failure:
                return (_line(failure, job), *buttons(session.phase))
            session.phase = "voted"
            gr.Info("Thanks, your vote is noted.", duration=4)
            return (gr.skip(), *buttons(session.phase))

        return cast

    def check(self, picture: Upload | None) -> Outputs:
        """Look at a picture as soon as it is uploaded. Gives picture and line."""
        if not picture:
            return _unchanged(2)
        try:
            self._uploads.store(picture)
        except Exception as failure:
            return None, _line(failure)
        return gr.skip(), ""

    def refresh(self, session: Session, chosen: str | None, request: gr.Request) -> Outputs:
        """Bring the list of models up to date. Gives dropdown and notice.

        What is chosen stays chosen, even when its workers are gone; at first that is `?model=` of
        the address.
        """
        try:
            live = tuple(model.name for model in self._service.models())
        except HeliographError as failure:
            return gr.skip(), wording.error(failure.body)
        wanted = chosen or dict(request.query_params).get("model")
        notice = wording.missing(wanted, live)
        if live == session.models and chosen:
            return gr.skip(), notice
        session.models = live
        value = wanted if wanted in live or chosen else next(iter(live), None)
        choices = sorted({*live, value}) if value else []
        return gr.update(choices=choices, value=value), notice


def _sampling(
    temperature: float, top_p: float, max_tokens: int, max_tiles: int, mode: Mode
) -> SamplingParams:
    try:
        return SamplingParams(
            temperature=temperature,
            top_p=top_p,
            max_tokens=max_tokens,
            max_input_tiles=max_tiles or None,
            image_process_mode=mode or None,
        )
    except ValidationError as invalid:
        names = ", ".join(str(error["loc"][0]) for error in invalid.errors())
        raise InvalidRequest(f"These parameters are out of range: {names}.") from None


def _line(failure: Exception, job: GenerateRequest | None = None) -> str:
    """One sentence for whatever went wrong; what nobody foresaw goes to the log."""
    job_id = job.id if job else ""
    if not isinstance(failure, HeliographError):
        log.error("the chat page failed, job %s", job_id or "none yet", exc_info=failure)
        failure = WorkerFailed("Something went wrong in the chat page; its log says more.")
    return wording.error(failure.body, job_id)


def _unchanged(count: int) -> Outputs:
    return (gr.skip(),) * count


BUTTONS = 7
"""Send, Stop, Regenerate, Clear, Upvote, Downvote, Flag: the order of `buttons`."""


def buttons(phase: Phase) -> Outputs:
    """Switch the seven buttons on and off."""
    may = Controls.of(phase)
    on = (may.send, may.stop, may.regenerate, may.clear, may.vote, may.vote, may.vote)
    return tuple(gr.update(interactive=each) for each in on)
