"""Which job each tab of this process reads, and the leases that it has as its reader."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from broker.connection import redis_errors
from broker.conversation import Answer
from broker.errors import HeliographError
from broker.readers import Readers

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Reading:
    answer: Answer
    reader: str
    is_shown: bool = False


class TabReaders:
    """The tabs that read; `len` is how many."""

    def __init__(self, readers: Readers) -> None:
        """Take and give up leases of `readers`."""
        self._readers = readers
        self._reading: dict[str, _Reading] = {}  # by tab

    def __len__(self) -> int:
        return len(self._reading)

    def __contains__(self, tab: object) -> bool:
        return tab in self._reading

    def arrive(self, tab: str, answer: Answer, reader: str = "") -> None:
        """Renew a tab's lease from now on; without a `reader` that has one it takes it here.

        `answer` is what the tab has of the answer.
        """
        self.end(tab)
        self._reading[tab] = _Reading(answer, self._readers.arrive(answer.job, reader))

    def show(self, tab: str, last: Answer | None) -> Answer | None:
        """Begin to show a chat's last answer in a tab; return what the tab has of it.

        None if there is nothing to be told, or is told already.
        """
        reading = self._reading.get(tab)
        if reading and (last is None or last.job != reading.answer.job):
            self.end(tab)
            reading = None
        if reading is None and last and not last.has_ended:
            self.arrive(tab, last)
            reading = self._reading[tab]
        if reading is None or reading.is_shown:
            return None
        reading.is_shown = True
        return reading.answer

    def end(self, tab: str, *, has_ended: bool = False) -> None:
        """Give up a tab's lease, if it has one; a job that has not ended has its grace then."""
        reading = self._reading.pop(tab, None)
        if reading is None:
            return
        if has_ended:
            self._readers.release(reading.reader)
            return
        try:
            with redis_errors():
                self._readers.leave(reading.reader)
        except HeliographError as failure:
            log.warning(
                "the reader of job %s leaves without a word: %s", reading.answer.job, failure
            )
