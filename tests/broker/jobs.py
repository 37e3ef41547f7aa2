"""Jobs as doors submit them and workers answer them, written straight into Redis."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable
from typing import Any, TypeVar

import redis

from broker import channel, chats, keys
from broker.chats import Store
from broker.conversation import Kept
from broker.errors import QueueFull
from broker.events import Delta, End, EventId, Timings, Usage
from broker.messages import ChatMessage, GenerateRequest, SamplingParams, TextPart
from broker.submission import Submitter

K = TypeVar("K", bound=Kept)


def make_request(model: str, text: str = "my secret prompt") -> GenerateRequest:
    return GenerateRequest(
        id=uuid.uuid4().hex,
        model=model,
        messages=(ChatMessage(role="user", content=(TextPart(text=text),)),),
        sampling=SamplingParams(max_tokens=5, stop=("x",), seed=7),
        created_s=time.time(),
    )


def make_job(client: redis.Redis) -> str:
    request = GenerateRequest(
        id=uuid.uuid4().hex,
        model="m",
        messages=(ChatMessage(role="user", content=(TextPart(text="hi"),)),),
        created_s=time.time(),
    )
    record = {"request": request.model_dump_json(), "state": "queued", "model": "m"}
    client.hset(keys.job(request.id), mapping=record)  # type: ignore[arg-type]
    return request.id


def claim(client: redis.Redis, job_id: str, worker: str = "w") -> channel.Claimed:
    pipe = client.pipeline(transaction=False)
    channel.claim(pipe, job_id, worker)
    claimed = channel.read_claim(pipe.execute()[0])
    assert claimed is not None
    return claimed


def end(attempt: int, n: int) -> End:
    return End(EventId(attempt, n), ".", (9,), "stop", Usage(3, n), Timings(0.1, 0.2, 0.3))


def answered(client: redis.Redis, text: str, **parts: Any) -> str:
    """A job of model `m` that said `text`; `parts` replace those of its request."""
    job_id = make_job(client)
    record = json.loads(client.hget(keys.job(job_id), "request"))  # type: ignore[arg-type]
    client.hset(keys.job(job_id), "request", json.dumps(record | parts))
    attempt = claim(client, job_id, "worker-7").attempt
    delta, last = text[:2], text[2:]
    channel.append(client, [(job_id, Delta(EventId(attempt, 1), delta, (1,)))])
    ended = End(EventId(attempt, 2), last, (2,), "stop", Usage(3, 2), Timings(0.1, 0.2, 0.3))
    channel.append(client, [(job_id, ended)])
    return job_id


def send(
    once: redis.Redis,
    store: Store[K],
    model: str,
    messages: tuple[ChatMessage, ...],
    sent: Callable[[GenerateRequest], K],
) -> K:
    """Submit the job that answers a chat or a battle, as the page does; return what is kept.

    `sent` gives the record with the job.
    """
    request = GenerateRequest(
        id=uuid.uuid4().hex, model=model, messages=messages, created_s=time.time()
    )
    record = sent(request)
    Submitter(once, max_queue_length=100).submit(
        request,
        check=lambda pipe: chats.check(pipe, record),
        also=lambda pipe: chats.write_sent(pipe, record, request.id),
    )
    return store.read(record.owner, record.id)


def now_s(client: redis.Redis) -> float:
    seconds, microseconds = client.time()  # type: ignore[misc]
    return float(seconds) + float(microseconds) / 1e6


def is_accepted(submitter: Submitter, model: str) -> bool:
    """Submit a request; return whether there was room for it."""
    try:
        submitter.submit(make_request(model))
    except QueueFull:
        return False
    return True
