"""When deltas go out: the first and the last at once, others in turns, longer for many jobs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis
from rq.executions import Execution

from broker import channel
from broker.errors import WorkerFailed
from broker.events import Delta, End, Event, Failed, TokenLogprob, Usage
from broker.messages import SamplingParams
from broker.outage import Outage
from broker.queues import GenerateJob
from frontend.service import Service
from tests.asking import say
from tests.broker.jobs import claim, make_job
from tests.stack import own_stack, until
from workers.publisher import Ended, Publisher
from workers.running import RunningJob
from workers.scheduler import Output

TOKENS = 400


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A worker whose answers have 400 words, said in one second."""
    with own_stack(tmp_path_factory.mktemp("fast")) as stack:
        stack.echo_worker(f"tokens={TOKENS}&tokens_per_s={TOKENS}")
        made = Service(stack.settings())
        yield made
        made.close()


def told(events: list[Event]) -> list[Delta | End]:
    return [event for event in events if isinstance(event, Delta | End)]


def text(events: list[Event]) -> str:
    return "".join(event.text for event in told(events))


def ids(events: list[Event]) -> list[int]:
    return [token_id for event in told(events) for token_id in event.token_ids]


def test_answers_of_a_fast_engine_come_in_few_events_and_complete(service: Service) -> None:
    words = ["left", "right"]
    requests = [service.submit("echo", say(word), SamplingParams()) for word in words]
    for word, request in zip(words, requests, strict=True):
        events = [event for event in service.follow(request) if event]
        assert text(events) == " ".join([word] * TOKENS)
        assert ids(events) == [*range(1, TOKENS + 1), 0]
        assert [str(event.id) for event in events] == [f"1-{n}" for n in range(len(events))]
        first, *_, end = told(events)
        # The text of one turn is eight tokens.
        assert isinstance(end, End) and len(first.token_ids) < 8
        duration_s = end.timings.total_s - end.timings.first_token_s
        assert 10 < len(events) <= 3 + 60 * duration_s


def test_many_answers_at_once_come_in_longer_pieces(service: Service) -> None:
    requests = [service.submit("echo", say("word"), SamplingParams()) for _ in range(40)]
    answers = [[event for event in service.follow(each) if event] for each in requests]
    assert [text(events) for events in answers] == [" ".join(["word"] * TOKENS)] * 40
    # A second of text in turns of 100 ms; with turns of 20 ms there would be fifty events.
    durations_s = [told(events)[-1].timings.total_s for events in answers]  # type: ignore[union-attr]
    assert max(len(events) for events in answers) < 3 + 15 * max(durations_s)


class Publishing:
    """A publisher with a turn so long that whatever may wait does."""

    def __init__(self, client: redis.Redis) -> None:
        self.redis = client
        self.ended: list[Ended] = []
        self.fenced: list[RunningJob] = []
        self.publisher = Publisher(
            client,
            on_ended=self.ended.extend,
            on_fenced=self.fenced.append,
            on_cut=lambda job: False,
            outage=Outage(),
            min_turn_s=3600.0,
        )
        self.publisher.start()

    def job(self) -> RunningJob:
        job_id = make_job(self.redis)
        claimed = claim(self.redis, job_id)
        execution = Execution("e", job_id, connection=self.redis)
        job = GenerateJob(job_id, connection=self.redis)
        return RunningJob(job, execution, claimed.request, claimed.attempt)

    def say(self, job: RunningJob, *words: str, **last: object) -> None:
        """Hand over one output per word; `last` belongs to the last one."""
        for place, word in enumerate(words):
            more = last if place == len(words) - 1 else {}
            logprobs = (TokenLogprob(word.encode(), -0.5),)
            output = Output(job.id, word, (ord(word),), logprobs=logprobs, **more)  # type: ignore[arg-type]
            self.publisher.put([(job, output)])

    def log(self, job: RunningJob, count: int) -> list[Event]:
        """What the log has after the claim, once there are `count` events."""

        def events() -> list[Event]:
            return channel.read_log(self.redis, job.id)[1:]

        until(lambda: len(events()) >= count, f"{count} events are logged")
        return events()


@pytest.fixture
def publishing(client: redis.Redis) -> Iterator[Publishing]:
    made = Publishing(client)
    yield made
    made.publisher.stop(timeout_s=5.0)


def test_the_first_delta_goes_out_at_once_and_the_next_waits_for_its_turn(
    publishing: Publishing,
) -> None:
    early, late = publishing.job(), publishing.job()
    publishing.say(early, "a")
    publishing.log(early, 1)
    publishing.say(early, "b", "c")
    publishing.say(late, "x")
    assert text(publishing.log(late, 1)) == "x"
    assert text(publishing.log(early, 1)) == "a"


def test_the_end_goes_out_at_once_with_all_that_was_held(publishing: Publishing) -> None:
    job = publishing.job()
    publishing.say(job, "a")
    publishing.log(job, 1)
    publishing.say(job, "b", "c", "d", finish_reason="stop", usage=Usage(1, 4))
    first, end = publishing.log(job, 2)
    assert isinstance(first, Delta) and isinstance(end, End)
    assert (end.text, end.token_ids) == ("bcd", (98, 99, 100))
    assert [each.token for each in end.logprobs] == [b"b", b"c", b"d"]
    (ended,) = until(lambda: publishing.ended, "the end is told")
    assert (ended.job, ended.usage) == (job, Usage(1, 4))


def test_an_error_goes_out_at_once_after_the_text_that_was_held(publishing: Publishing) -> None:
    job = publishing.job()
    publishing.say(job, "a")
    publishing.log(job, 1)
    error = WorkerFailed("The model failed.").body
    publishing.say(job, "b", "c")
    publishing.publisher.put([(job, Output(job.id, error=error))])
    _, held, failed = publishing.log(job, 3)
    assert isinstance(held, Delta) and (held.text, held.token_ids) == ("bc", (98, 99))
    assert isinstance(failed, Failed) and failed.error == error
    assert until(lambda: publishing.ended, "the end is told")[0].error == error


def test_stopping_publishes_what_is_held(publishing: Publishing) -> None:
    jobs = [publishing.job(), publishing.job()]
    for job in jobs:
        publishing.say(job, "a")
        publishing.log(job, 1)
        publishing.say(job, "b", "c")
    publishing.publisher.stop(timeout_s=5.0)
    for job in jobs:
        assert [event.text for event in told(publishing.log(job, 2))] == ["a", "bc"]


def test_what_was_held_is_not_written_into_a_job_that_was_lost_meanwhile(
    publishing: Publishing,
) -> None:
    lost, kept = publishing.job(), publishing.job()
    for job in (lost, kept):
        publishing.say(job, "a")
        publishing.log(job, 1)
        publishing.say(job, "b")
    claim(publishing.redis, lost.id, "another")
    publishing.publisher.stop(timeout_s=5.0)
    assert publishing.fenced == [lost]
    assert text(publishing.log(lost, 2)) == "a"
    assert text(publishing.log(kept, 2)) == "ab"
