"""Which job each tab of this process reads, and the leases that it has as its reader."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from broker.connection import redis_errors
from broker.errors import HeliographError
from broker.readers import Readers

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Reading:
    job: str
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

    def arrive(self, tab: str, job_id: str, reader: str = "") -> None:
        """Renew a tab's lease from now on; without a `reader` that has one it takes it here."""
        self.end(tab)
        self._reading[tab] = _Reading(job_id, self._readers.arrive(job_id, reader))

    def show(self, tab: str, job_id: str) -> bool:
        """Begin to show a job in a tab; False if it is shown there already."""
        reading = self._reading.get(tab)
        if reading is None or reading.job != job_id:
            self.arrive(tab, job_id)
            reading = self._reading[tab]
        was_shown, reading.is_shown = reading.is_shown, True
        return not was_shown

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
            log.warning("the reader of job %s leaves without a word: %s", reading.job, failure)
