"""Asking as the doors do, and what comes of it: answers, and what Redis knows of jobs."""

from __future__ import annotations

from broker import jobs, keys, registry
from broker.events import Delta, End
from broker.messages import ChatMessage, GenerateRequest, ImagePart, SamplingParams, TextPart
from frontend.service import Service
from tests.stack import Stack


def say(text: str, *images: str) -> list[ChatMessage]:
    parts = [*(ImagePart(sha256=sha) for sha in images), TextPart(text=text)]
    return [ChatMessage(role="user", content=tuple(parts))]


def ask(service: Service, text: str, model: str = "echo", **params: object) -> GenerateRequest:
    return service.submit(model, say(text), SamplingParams.model_validate(params))


def answer(service: Service, request: GenerateRequest) -> tuple[str, End]:
    """Text and last event of an answer; checks that ids only grow."""
    events = [event for event in service.follow(request) if event is not None]
    assert [event.id for event in events] == sorted({event.id for event in events})
    assert isinstance(events[-1], End), events[-1]
    return "".join(e.text for e in events if isinstance(e, Delta | End)), events[-1]


def deltas(service: Service, request: GenerateRequest, count: int) -> None:
    """Follow until `count` events with text have come."""
    seen = 0
    for event in service.follow(request):
        seen += isinstance(event, Delta)
        if seen >= count:
            return


def running(stack: Stack) -> int:
    return sum(info.running for info in registry.workers(stack.redis))


def newest(stack: Stack, model: str = "") -> jobs.Job:
    """The newest job, of a model if one is named."""
    ids = (key.decode().removeprefix(keys.job("")) for key in stack.redis.scan_iter(keys.job("*")))
    found = (jobs.read(stack.redis, each) for each in ids if ":" not in each)
    return max(
        (job for job in found if model in ("", job.request.model)),
        key=lambda job: job.request.created_s,
    )
