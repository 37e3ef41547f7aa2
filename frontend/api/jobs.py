"""The routes under /v1/jobs: look at a job, come back to its answer, cancel it.

A job is known to every API process by its id, with or without the prefix that OpenAI's routes give
it. What is streamed here is what /v1/chat/completions streams (`completion`).
"""

from __future__ import annotations

import json
import re

from flask import Blueprint, Response, g, request

from broker.errors import InvalidRequest
from broker.events import START, EventId
from broker.jobs import Job
from broker.queues import ANSWER_PREFIX
from frontend.api.client import Client, ClientGone
from frontend.api.completion import last_words, streamed_reply
from frontend.api.context import current_answers, current_service

jobs = Blueprint("jobs", __name__, url_prefix="/v1/jobs")

_EVENT_ID = re.compile("[0-9]{1,18}-[0-9]{1,18}")
_FLAGS = {"true": True, "1": True, "false": False, "0": False}


@jobs.get("/<name>")
def get_job(name: str) -> Response:
    """What is known of a job."""
    return _json(_find(name))


@jobs.delete("/<name>")
def cancel_job(name: str) -> Response:
    """Cancel a job; one that has ended stays as it is."""
    job = _find(name)
    current_service().jobs.cancel(job.id)
    return _json(current_service().jobs.read(job.id))


@jobs.get("/<name>/events")
def job_events(name: str) -> Response:
    """Stream a running or finished answer, from its beginning or after an event."""
    client, service = Client(request.environ), current_service()
    after, usage = _after(), _flag("include_usage")
    job = _find(name)
    if (ending := service.jobs.ending(job, after)) is not None:
        return last_words(job.request, ending, usage=usage)
    events = current_answers().follow(job.request, client, after)
    try:
        return streamed_reply(job.request, events, usage=usage, after=after)
    except ClientGone:
        return Response(status=499)


def _find(name: str) -> Job:
    job = current_service().jobs.read(name.removeprefix(ANSWER_PREFIX))
    g.job_id = job.id
    return job


def _after() -> EventId:
    # The header first: a browser that reconnects sends it beside the address it was given.
    said = request.headers.get("Last-Event-ID", request.args.get("after"))
    if said is None:
        return START
    if not _EVENT_ID.fullmatch(said):
        raise InvalidRequest(
            "Last-Event-ID (or ?after=) must be the id of an event of this job, like 1-17; "
            f"{said[:40]!r} was sent.",
            param="after",
        )
    return EventId.parse(said)


def _flag(name: str) -> bool:
    said = request.args.get(name, "false")
    if said not in _FLAGS:
        raise InvalidRequest(
            f"{name}: it must be true or false; {said[:40]!r} was sent.", param=name
        )
    return _FLAGS[said]


def _json(job: Job) -> Response:
    value = {
        "id": job.id,
        "object": "job",
        "model": job.request.model,
        "state": job.state,
        "worker": job.worker or None,
        "attempt": job.attempt,
        "created": int(job.request.created_s),
        "queue_position": job.position,
        "eta_s": None if (eta_s := current_service().line.eta_s(job)) is None else round(eta_s, 1),
        "on_disconnect": job.on_disconnect or None,
    }
    return Response(json.dumps(value), mimetype="application/json")
