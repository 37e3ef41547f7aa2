"""Questions on their way to models, and answers as they grow in tabs.

The same for the one conversation of a chat and the two of a battle, each of which has a seat: a
reader of its own. What lines say, and what else is shown, is for others to know.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import gradio as gr

from broker.chats import Store
from broker.conversation import Chat, Kept
from broker.errors import ErrorBody
from broker.messages import GenerateRequest
from broker.readers import new_reader
from frontend.service import Service
from frontend.ui import answer
from frontend.ui.answer import Update
from frontend.ui.conversation import Bookmark
from frontend.ui.reading import TabReaders
from frontend.ui.shown import Outputs, body_of, unchanged
from frontend.ui.stopping import fail

K = TypeVar("K", bound=Kept)


class Answering:
    """The answers that the tabs of this process wait for; `readers` are their seats."""

    def __init__(self, service: Service) -> None:
        """Submit and follow by `service`."""
        self.readers = TabReaders(service.readers)
        self._service = service
        self._shown: dict[str, list[str]] = {}  # jobs of the last answers, by who was shown them
        self._rule = f"grace:{service.settings.ui_grace_s}"

    def ask(self, seat: str, chat: Chat, sent: Callable[[GenerateRequest], K], ip: str) -> K:
        """Put a chat's last question on its model's queue; its answer is the seat's to read.

        `sent` gives what is to be kept with the job; returned is that as it is then.

        Raises:
            HeliographError: see `Service.submit`.
        """
        reader = new_reader()
        job = self._service.submit(
            chat.model,
            chat.messages,
            chat.sampling,
            on_disconnect=self._rule,
            reader=reader,
            keep=sent,
            ip=ip,
        )
        record = sent(job)
        begun = next(each for each in record.running if each.job == job.id)
        self.readers.arrive(seat, begun, reader)
        return record.model_copy(update={"version": record.version + 1})

    def show(
        self,
        seat: str,
        store: Store[K],
        record: K,
        chat: Chat,
        shown: Callable[[Chat], list[dict[str, Any]]],
        line: Callable[[Update], str],
        failed: Callable[[ErrorBody, str], str],
    ) -> Iterator[Outputs]:
        """Show a chat's last answer grow, from where the seat has it. Yields chat and line.

        Gradio closes this generator when the tab is gone; then it reads the job no more.

        Args:
            seat: who reads.
            store: where a failure is noted.
            record: whose chat it is.
            chat: itself, or one of its two.
            shown: the messages of the chat box.
            line: the line of an update.
            failed: the line of an error, by the job's id.
        """
        last = self.readers.show(seat, chat.last)
        if last is None:
            # Gradio empties the outputs of a generator that yields nothing.
            self._shown.pop(seat, None)
            yield unchanged(2)
            return
        self._shown[seat] = _jobs(record)
        try:
            job = self._service.jobs.read(last.job).request
            for update in answer.follow(self._service, job, lambda: len(self.readers), last):
                last = update.added_to(last)
                if update.error:
                    fail(self._service.jobs, store, record, last.job, update.error)
                    told = failed(update.error, last.job)
                else:
                    told = line(update)
                yield shown(chat.with_last(last)), told
        except Exception as failure:
            error = body_of(failure, last.job)
            last = last.fail(error)
            fail(self._service.jobs, store, record, last.job, error)
            yield gr.skip(), failed(error, last.job)
        finally:
            self.readers.end(seat, has_ended=last.has_ended)

    def bookmark(self, record: Kept, *seats: str) -> Any:
        """The bookmark of a tab that was shown a record's last answers; skipped if others went on.

        Not shown, it is what the tab hears of when it looks.
        """
        shown = [self._shown.get(seat) for seat in seats]
        return str(Bookmark.of(record)) if _jobs(record) in shown else gr.skip()

    def leave(self, *seats: str) -> None:
        """Read no longer for a tab that is gone."""
        for seat in seats:
            self._shown.pop(seat, None)
            self.readers.end(seat)


def _jobs(record: Kept) -> list[str]:
    """The jobs of a record's last answers."""
    return [chat.last.job if chat.last else "" for chat in record.conversations]
