"""How a job's events become updates of the page."""

from collections.abc import Iterator
from typing import Any, cast

import pytest

from broker.connection import connect
from broker.conversation import Answer
from broker.errors import RedisUnavailable, WorkerFailed
from broker.events import Claim, Delta, End, Event, EventId, Failed, Timings, Usage
from broker.messages import GenerateRequest
from broker.settings import Settings
from frontend.fleet import Fleet
from frontend.service import Service
from frontend.ui import answer
from tests.stack import free_port

JOB = GenerateRequest(id="j1", model="m", messages=(), created_s=0.0)
END = End(EventId(1, 99), "!", (), "stop", Usage(3, 5), Timings(0.0, 0.1, 1.1))


class Script:
    """A service whose job has these events, with a fleet that nobody can reach."""

    def __init__(self, *events: Event | Exception | None) -> None:
        self.events = events
        self.closed = False
        nowhere = Settings.from_environment({"REDIS_URL": f"redis://127.0.0.1:{free_port()}/0"})
        self.fleet = Fleet(nowhere, connect(nowhere.url, retry=False))

    def follow(
        self, request: GenerateRequest, after: EventId, *, tick_s: float
    ) -> Iterator[Event | None]:
        try:
            for event in self.events:
                if isinstance(event, Exception):
                    raise event
                if event is None or event.id > after:
                    yield event
        finally:
            self.closed = True


def updates(*events: Event | Exception | None) -> list[answer.Update]:
    return list(answer.follow(cast(Service, Script(*events)), JOB))


def deltas(count: int) -> list[Event]:
    return [Delta(EventId(1, n + 1), f"w{n} ", (n,)) for n in range(count)]


def test_the_first_words_are_shown_at_once() -> None:
    first = updates(Claim(EventId(1, 0), "w"), *deltas(3), END)[0]
    assert first.text == "w0 "


def test_many_events_make_few_updates_and_none_is_lost() -> None:
    shown = updates(*deltas(5000), END)
    assert len(shown) < 50
    assert shown[-1].text == "".join(f"w{n} " for n in range(5000)) + "!"
    assert shown[-1].end == END


def test_updates_grow_rarer_with_the_number_of_streams() -> None:
    assert answer.pace_s(1) == answer.pace_s(10) == answer.UPDATE_S
    assert answer.pace_s(100) == pytest.approx(100 / answer.UPDATES_PER_S)
    assert answer.pace_s(1, 5_000) == answer.UPDATE_S
    assert answer.pace_s(1, 20_000) == pytest.approx(0.2)


def test_an_answer_that_is_known_in_part_goes_on_where_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(answer, "pace_s", lambda *_: 0.0)
    events = (Claim(EventId(1, 0), "w"), *deltas(3), END)
    known = Answer(job="j1", model="m", sampling=JOB.sampling).tell(events[:3])
    shown = list(answer.follow(cast(Service, Script(*events)), JOB, told=known))
    assert known.text == "w0 w1 "
    assert [update.text for update in shown] == ["w0 w1 w2 ", "w0 w1 w2 !"]
    assert shown[0].line == "answering"
    assert known.tell(events) == known.tell(events[3:]) == known.tell(events).tell(events)


def test_an_error_of_the_worker_keeps_the_words_that_came() -> None:
    error = WorkerFailed("The engine failed.").body
    last = updates(*deltas(2), Failed(EventId(1, 3), error))[-1]
    assert (last.text, last.error) == ("w0 w1 ", error)


def test_a_lost_redis_is_an_error_line_and_not_an_exception() -> None:
    last = updates(*deltas(1), RedisUnavailable("Redis is away."))[-1]
    assert last.text == "w0 "
    assert last.error is not None
    assert last.error.code == "redis_unavailable"


def test_a_short_absence_of_redis_does_not_end_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer, "LOOK_S", 0.0)
    monkeypatch.setattr(answer, "pace_s", lambda *_: 0.0)
    lines = [update.line for update in updates(None, *deltas(1), END)]
    assert lines[0] == "Redis does not answer, waiting for it"
    assert lines[-1].startswith("5 tokens")


def test_a_reader_that_leaves_closes_the_stream() -> None:
    script = Script(*deltas(100), END)
    reader: Any = answer.follow(cast(Service, script), JOB)
    next(reader)
    reader.close()
    assert script.closed


def test_the_last_words_of_a_long_answer_come_before_its_end() -> None:
    words = "w" * answer.LONG_CHARACTERS
    *_, words_only, end = updates(Delta(EventId(1, 1), words + " ", (1,)), END)
    assert words_only.text == end.text == f"{words} !"
    assert (words_only.end, end.end) == (None, END)
