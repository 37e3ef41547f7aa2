"""One request of a soak from its sending to its verdict.

The client does what a careful one does: it sends the request with an `Idempotency-Key`, comes back
with `Last-Event-ID` to the other API process whenever a connection ends before the answer does, and
tries again while the server says that it cannot at the moment. What it heard is then compared with
the undisturbed answer, and its event ids with the job's log in Redis.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from contextlib import suppress

import httpx
import redis

from bench.asks import Ask
from bench.verdicts import FAULTS, Outcome, Verdict, evidence, judge, judge_error
from broker import jobs
from broker.channel import read_log
from broker.errors import JobNotFound
from broker.events import Event
from tests.chaos.streams import BrokenOff, EndedInError, Heard
from tests.frontend.clients import Connection

AT_ONCE_S = 2.0
"""A request that is refused later than this had been accepted."""

PATIENCE_S = 90.0
"""Longest time that anything is tried again."""

PAUSE_S = 0.2
PASSING = ("redis_unavailable", "server_stopping")
"""What a server says that cannot tell an answer now, and will later."""


class Refused(Exception):
    """The request was not accepted; the code is the first argument."""


class Gone(Exception):
    """Nobody answers any more."""


class Follower(Heard):
    """Follows one request to its end."""

    def __init__(self, ask: Ask, addresses: Sequence[str], client: redis.Redis) -> None:
        """Send nothing yet; the first of the addresses is asked first."""
        super().__init__()
        self._ask, self._addresses, self._redis = ask, addresses, client
        self._key = uuid.uuid4().hex
        self._cuts = list(ask.cuts[::-1])
        self._connections = 0
        self._has_left = self._has_stopped = False

    def run(self) -> Verdict:
        """Follow the request and judge what was heard."""
        try:
            self._hear()
        except Refused as refusal:
            return self._verdict("refused", str(refusal))
        except EndedInError as error:
            return self._verdict(*judge_error(self._ask, self.told, error.args[0]), self._log())
        except Gone as gone:
            return self._verdict("lost", str(gone))
        log = self._log()
        return self._verdict(*judge(self._ask, self.told, log), log)

    def _hear(self) -> None:
        began_s = time.monotonic()
        while not self.is_done and not self._has_left:
            if time.monotonic() - began_s > PATIENCE_S:
                raise Gone(f"no end after {PATIENCE_S:.0f} s")
            try:
                with Connection(self._address()) as connection:
                    self._connections += 1
                    self._read(connection)
            except (BrokenOff, OSError):
                time.sleep(PAUSE_S)

    def _address(self) -> str:
        """Take turns, so that each return is to another process."""
        self._addresses = [*self._addresses[1:], self._addresses[0]]
        return self._addresses[-1]

    def _read(self, connection: Connection) -> None:
        sent_s = time.monotonic()
        if self.job_id:
            connection.get(f"/v1/jobs/{self.job_id}/events", self.last)
        else:
            connection.send(self._ask.body, key=self._key)
        status = next(connection.lines(), "")
        if " 200 " not in status:
            self._check_refusal(connection, status, sent_s)
        for line in connection.lines():
            self.take(line)
            if self.is_done or self._has_enough(connection):
                return
        raise BrokenOff

    def _check_refusal(self, connection: Connection, status: str, sent_s: float) -> None:
        """Tell a request that was not accepted from an answer that ended before it began.

        Raises:
            BrokenOff: it is to be tried again.
            Refused: the request was not accepted.
            EndedInError: it was.
        """
        try:
            code = connection.body()["error"]["code"] if status else ""
        except StopIteration:
            raise BrokenOff from None
        if not status or code == "server_stopping" or (self.job_id and code in PASSING):
            raise BrokenOff
        if not self.job_id and "503" in status and time.monotonic() - sent_s < AT_ONCE_S:
            raise Refused(code)
        raise EndedInError(code, status)

    def _has_enough(self, connection: Connection) -> bool:
        """Do what the request is to suffer by now; return whether this connection has ended.

        Raises:
            BrokenOff: the client is to come back.
        """
        if self._cuts and self.told.tokens >= self._cuts[-1]:
            self._cuts.pop()
            raise BrokenOff
        if not self._ask.stop_at or self.told.tokens < self._ask.stop_at:
            return False
        self._has_left = self._ask.kind == "leaving"
        if self._ask.kind == "stopped" and not self._has_stopped:
            self._stop()
        return self._has_left

    def _stop(self) -> None:
        """Cancel the job at whichever process takes the order."""
        deadline_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline_s:
            with suppress(httpx.TransportError):
                reply = httpx.delete(f"{self._address()}/v1/jobs/{self.job_id}", timeout=10)
                if reply.status_code == 200:
                    self._has_stopped = True
                    return
                assert reply.status_code == 503, reply.text
            time.sleep(PAUSE_S)
        raise Gone("nobody takes the order to cancel")

    def _log(self) -> list[Event]:
        """Return the log of the job when it has ended, however long Redis is away meanwhile."""
        deadline_s = time.monotonic() + PATIENCE_S
        while self.job_id and time.monotonic() < deadline_s:
            with suppress(redis.RedisError, JobNotFound):
                if jobs.read(self._redis, self.job_id).state in jobs.ENDED:
                    return read_log(self._redis, self.job_id)
            time.sleep(PAUSE_S)
        return []

    def _verdict(self, outcome: Outcome, why: str = "", log: Sequence[Event] = ()) -> Verdict:
        proof = {}
        if outcome in (*FAULTS, "failed"):
            proof = evidence(self._ask, self.told, self.job_id, log)
        moved = bool(self.last) and self.told.ids[-1].attempt > 1
        returns = max(0, self._connections - 1)
        return Verdict(self._ask, outcome, time.monotonic(), why, returns, moved, proof)
