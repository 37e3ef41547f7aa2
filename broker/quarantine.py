"""Jobs that were set aside because their workers died, with the evidence, for a week.

One hash for each job holds all that it takes to find the reason and to try the request again; its
pictures are kept as long. It holds the whole request, so whoever may read it may read the prompt.
Knows nothing of how it is found out that a worker died.
"""

from __future__ import annotations

import json
import time
import uuid
from dataclasses import dataclass
from typing import Any

import redis

from broker import channel, images, keys, records
from broker.errors import InvalidRequest, JobNotFound
from broker.events import Claim, Delta
from broker.messages import GenerateRequest
from broker.submission import Submitter


@dataclass(frozen=True, slots=True)
class Evidence:
    """A job that was set aside: who ran it, how far it came, what its last worker logged."""

    job_id: str
    model: str
    workers: tuple[str, ...]
    """Of each attempt, in order; one that the job was handed over by in order is among them."""
    deaths: int
    since_s: float
    tokens: int
    """That were told; 0 if an upstream told text only."""
    request: str
    """JSON of a `GenerateRequest`, perhaps of another version."""
    log: tuple[str, ...]

    def as_dict(self) -> dict[str, object]:
        """Describe it for people: parameters and image hashes, but not what was said."""
        return {
            "job": self.job_id,
            "model": self.model,
            "workers": self.workers,
            "deaths": self.deaths,
            "since_s": self.since_s,
            "tokens": self.tokens,
            "images": _images(self.request),
            "parameters": json.loads(self.request).get("sampling"),
            "log": self.log,
        }


def _images(request: str) -> list[str]:
    """Hashes of a request's pictures and frames, in order, whatever version wrote it."""
    messages = json.loads(request).get("messages", [])
    parts = [part for message in messages for part in message["content"]]
    return [s for p in parts for s in p.get("frames") or [p.get("sha256")] if s]


def set_aside(client: redis.Redis, job_id: str, worker_id: str, deaths: int) -> None:
    """Write the evidence about a job whose last worker was `worker_id`; may be repeated."""
    record: Any = client.hmget(keys.job(job_id), "request", "model")
    request, model = (raw.decode() if raw else "" for raw in record)
    if not request:
        return
    try:
        log = channel.read_log(client, job_id)
    except ValueError:  # events of another version
        log = []
    last_lines: Any = client.get(keys.worker_log(worker_id))
    fields = {
        "model": model,
        "workers": json.dumps([event.worker for event in log if isinstance(event, Claim)]),
        "deaths": deaths,
        "since_s": time.time(),
        "tokens": sum(len(event.token_ids) for event in log if isinstance(event, Delta)),
        "request": request,
        "log": (last_lines or b"").decode(errors="replace"),
        "job_id": job_id,
    }
    pipe = client.pipeline()
    pipe.hset(keys.quarantined(job_id), mapping=fields)  # type: ignore[arg-type]
    pipe.expire(keys.quarantined(job_id), keys.QUARANTINE_TTL_S)
    pipe.sadd(keys.QUARANTINE, job_id)
    for sha256 in _images(request):
        images.keep(pipe, sha256, keys.QUARANTINE_TTL_S)
    pipe.execute()


def read_all(client: redis.Redis) -> list[Evidence]:
    """All jobs that are set aside, the oldest first."""
    found = records.read_all(client, keys.QUARANTINE, keys.quarantined, _parse)
    return sorted(found, key=lambda each: each.since_s)


def read(client: redis.Redis, job_id: str) -> Evidence:
    """The evidence about one job.

    Raises:
        JobNotFound: it is not set aside, or the evidence has expired.
    """
    found = next((each for each in read_all(client) if each.job_id == job_id), None)
    if found is None:
        raise JobNotFound(
            f"No job {job_id} is set aside. `python -m broker quarantine list` shows those that "
            "are; the evidence is kept for a week."
        )
    return found


def _parse(record: dict[str, Any]) -> Evidence:
    return Evidence(
        job_id=record["job_id"],
        model=record["model"],
        workers=tuple(json.loads(record["workers"])),
        deaths=int(record["deaths"]),
        since_s=float(record["since_s"]),
        tokens=int(record["tokens"]),
        request=record["request"],
        log=tuple(record["log"].splitlines()),
    )


def retry(client: redis.Redis, submitter: Submitter, job_id: str) -> str:
    """Submit the same request anew and return its new id; the evidence stays.

    Raises:
        JobNotFound: it is not set aside.
        InvalidRequest: another version wrote it.
        QueueFull: the model's queue is at its bound.
    """
    try:
        request = GenerateRequest.model_validate_json(read(client, job_id).request)
    except ValueError:
        raise InvalidRequest(
            f"Job {job_id} was written by another version. Use that one."
        ) from None
    anew = {"id": uuid.uuid4().hex, "created_s": time.time()}
    submitter.submit(request.model_copy(update=anew))
    return str(anew["id"])


def drop(client: redis.Redis, job_id: str) -> None:
    """Forget the evidence about a job.

    Raises:
        JobNotFound: it is not set aside.
    """
    read(client, job_id)
    client.delete(keys.quarantined(job_id))
    client.srem(keys.QUARANTINE, job_id)
