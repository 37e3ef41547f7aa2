"""The last reader of a job decides by the job's rule, whatever process it is in."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from broker import cancellation, channel, jobs, keys, queues, readers
from broker.connection import connect
from broker.events import End, EventId, Timings, Usage
from broker.readers import Readers
from broker.submission import Submitter
from tests.broker.jobs import make_request, now_s


@pytest.fixture
def processes(server_url: str) -> Iterator[tuple[Readers, Readers]]:
    """Two processes that read."""
    clients = [connect(server_url) for _ in range(2)]
    made = (Readers(clients[0]), Readers(clients[1]))
    yield made
    for process, client in zip(made, clients, strict=True):
        process.close()
        client.close()


def submit(server_url: str, rule: str) -> str:
    once = connect(server_url, retry=False)
    job_id = Submitter(once, max_queue_length=100).submit(make_request("read"), rule)
    once.close()
    return job_id


def test_only_the_last_reader_that_leaves_cancels(
    client: redis.Redis, server_url: str, processes: tuple[Readers, Readers]
) -> None:
    job_id = submit(server_url, "cancel")
    first, second = (process.arrive(job_id) for process in processes)
    assert not processes[0].leave(first)
    assert jobs.read(client, job_id).state == "queued"
    assert processes[1].leave(second)
    assert jobs.read(client, job_id).state == "cancelled"


def test_a_lease_that_ran_out_is_no_reader(
    client: redis.Redis, server_url: str, processes: tuple[Readers, Readers]
) -> None:
    job_id = submit(server_url, "cancel")
    reader = processes[0].arrive(job_id)
    client.zadd(keys.readers(job_id), {"of a dead process": now_s(client) - 0.01})
    assert processes[0].leave(reader)


def test_a_lease_of_a_dead_process_is_looked_at_again(
    client: redis.Redis, server_url: str, processes: tuple[Readers, Readers]
) -> None:
    """Who leaves after it leaves last, and cannot know that yet."""
    job_id = submit(server_url, "cancel")
    reader = processes[0].arrive(job_id)
    client.zadd(keys.readers(job_id), {"of a dead process": now_s(client) + 3})
    before_s = now_s(client)
    assert not processes[0].leave(reader)
    left_s = client.zscore(keys.DEADLINES, job_id) - keys.READER_TTL_S
    assert before_s - 0.001 <= left_s <= now_s(client) + 0.001
    client.zadd(keys.DEADLINES, {job_id: now_s(client) - 0.01})
    client.zadd(keys.readers(job_id), {"of a dead process": now_s(client) - 0.01})
    assert readers.cancel_overdue(client) == [job_id]
    assert jobs.read(client, job_id).state == "cancelled"


def test_a_reader_that_lives_keeps_its_job_when_another_left(
    client: redis.Redis, server_url: str, processes: tuple[Readers, Readers]
) -> None:
    job_id = submit(server_url, "cancel")
    first, second = (process.arrive(job_id) for process in processes)
    assert not processes[0].leave(first)
    client.zadd(keys.DEADLINES, {job_id: now_s(client) - 0.01})
    assert readers.cancel_overdue(client) == []
    assert client.zscore(keys.DEADLINES, job_id) is None
    assert processes[1].leave(second)


@pytest.mark.parametrize("rule", ["detach", ""])
def test_other_jobs_are_left_alone(
    client: redis.Redis, server_url: str, processes: tuple[Readers, Readers], rule: str
) -> None:
    job_id = submit(server_url, rule)
    assert not processes[0].leave(processes[0].arrive(job_id))
    assert jobs.read(client, job_id).state == "queued"
    assert client.zscore(keys.DEADLINES, job_id) is None


def test_a_grace_counts_from_the_leaving_and_its_end_cancels(
    client: redis.Redis, server_url: str, processes: tuple[Readers, Readers]
) -> None:
    job_id = submit(server_url, "grace:100")
    before_s = now_s(client)
    assert not processes[0].leave(processes[0].arrive(job_id))
    deadline_s = client.zscore(keys.DEADLINES, job_id)
    assert isinstance(deadline_s, float)
    assert before_s + 99.999 <= deadline_s <= now_s(client) + 100.001
    assert readers.cancel_overdue(client) == []
    client.zadd(keys.DEADLINES, {job_id: now_s(client) - 0.01})
    assert readers.cancel_overdue(client) == [job_id]
    assert jobs.read(client, job_id).state == "cancelled"
    assert client.zscore(keys.DEADLINES, job_id) is None


def test_an_ended_jobs_deadline_passes_without_a_word(client: redis.Redis, server_url: str) -> None:
    job_id = submit(server_url, "grace:100")
    assert cancellation.cancel(client, job_id)
    client.zadd(keys.DEADLINES, {job_id: now_s(client) - 0.01, "expired": now_s(client) - 0.01})
    assert readers.cancel_overdue(client) == []
    assert client.zmscore(keys.DEADLINES, [job_id, "expired"]) == [None, None]


def test_a_reader_has_its_lease_with_the_submission(
    client: redis.Redis, server_url: str, processes: tuple[Readers, Readers]
) -> None:
    """Should its process die at once, the grace ends all the same."""
    reader, request = readers.new_reader(), make_request("read")
    once = connect(server_url, retry=False)
    submitter, before_s = Submitter(once, max_queue_length=100), now_s(client)
    submitter.submit(
        request, "grace:100", also=lambda pipe: readers.hold(pipe, {reader: request.id})
    )
    once.close()
    after_s = now_s(client)
    lease_s = client.zscore(keys.readers(request.id), reader)
    deadline_s = client.zscore(keys.DEADLINES, request.id)
    assert isinstance(lease_s, float) and isinstance(deadline_s, float)
    assert before_s - 0.001 <= lease_s - keys.READER_TTL_S <= after_s + 0.001
    assert deadline_s == pytest.approx(lease_s + 100, abs=0.002)
    assert processes[0].arrive(request.id, reader) == reader
    assert not processes[0].leave(reader)
    assert client.zcard(keys.readers(request.id)) == 0
    client.zrem(keys.DEADLINES, request.id)


def test_an_ended_job_stays_as_it_is_when_it_is_claimed_or_cancelled_again(
    client: redis.Redis, server_url: str
) -> None:
    job_id = submit(server_url, "detach")
    client.lrem(queues.queue_key("read"), 1, job_id)
    for attempt in (1, 2):
        pipe = client.pipeline(transaction=False)
        channel.claim(pipe, job_id, "worker")
        pipe.execute()
        if attempt == 1:
            end = End(EventId(1, 1), "", (), "stop", Usage(1, 0), Timings(0.0, 0.0, 0.0))
            channel.append(client, [(job_id, end)])
    assert cancellation.cancel(client, job_id)
    assert jobs.read(client, job_id).state == "done"
    ending = jobs.ending(client, jobs.read(client, job_id), EventId(2, 0))
    assert isinstance(ending, End)
    assert ending.id == EventId(1, 1)
