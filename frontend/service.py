"""The one way in for all doors: puts requests on their queues and follows the answers.

What else the doors share stands beside that, each part by itself: the fleet, pictures, jobs, votes,
chats. Knows Redis only through the broker, keeps nothing that another process would miss, and may
be used from many threads or greenlets at once.
"""

from __future__ import annotations

import secrets
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import nullcontext

from redis.client import Pipeline

from broker import cell, feedback, idempotency, jobs
from broker.chats import Battles, Chats, check, write_sent
from broker.connection import check_writes, connect, redis_errors
from broker.conversation import Kept
from broker.errors import NoLiveWorker
from broker.events import START, EventId
from broker.messages import ChatMessage, GenerateRequest, ModelInfo, SamplingParams
from broker.outage import Outage
from broker.readers import Readers, hold
from broker.settings import Settings
from broker.submission import Submitter
from broker.subscriber import Events, Subscriber
from frontend import admission
from frontend.drawings import Drawings
from frontend.feedback import Feedback
from frontend.fleet import Fleet
from frontend.foreign import ForeignWorkers
from frontend.jobs import Jobs
from frontend.line import Line
from frontend.orphans import OrphanWatch
from frontend.picture_store import Offload, PictureStore


def _directly(computation: Callable[[], None]) -> None:
    computation()


def _wait_for_nothing() -> None:
    pass


def _seeded(sampling: SamplingParams) -> SamplingParams:
    if sampling.seed:
        return sampling
    return sampling.model_copy(update={"seed": secrets.randbelow(2**63 - 1) + 1})


class Service:
    """What the doors share: one per process."""

    def __init__(self, settings: Settings, offload: Offload = _directly) -> None:
        """Prepare connections; none is opened before the first call.

        Args:
            settings: the Redis to use, limits, and groups of models.
            offload: runs a computation of up to a second (decoding a picture) and returns when it
                is done; a process of greenlets gives one that lets the others go on meanwhile.
        """
        self.settings = settings
        self._redis = connect(settings.url)
        # One attempt only: a refusal comes in time, and open streams, which try again by
        # themselves, can say between two tries that they live.
        self._once = connect(settings.url, retry=False)
        self._submitter = Submitter(self._once, max_queue_length=settings.max_queue_length)
        outage = Outage()
        self._subscriber = Subscriber(self._once, outage)
        self.readers = Readers(self._redis, outage)
        self.chats = Chats(self._once)
        self.battles = Battles(self._once)
        self.feedback = Feedback(settings, self._redis)
        self.fleet = Fleet(settings, self._once)
        self.foreign = ForeignWorkers(self._once)
        self.jobs = Jobs(self._redis)
        self.line = Line(self._once, self.fleet)
        self.pictures = PictureStore(settings, self._once, offload)
        self.drawings = Drawings(settings, self._redis, self.pictures)

    def close(self) -> None:
        """Close the connections; for tests and short programs."""
        self._subscriber.close()
        self.readers.close()
        for client in (self._redis, self._once):
            client.close()

    @redis_errors()
    def ping(self) -> None:
        """Check that Redis answers.

        Raises:
            RedisUnavailable: it does not.
        """
        self._once.ping()

    @redis_errors()
    def submit(
        self,
        model: str,
        messages: Sequence[ChatMessage],
        sampling: SamplingParams,
        *,
        path: tuple[str, ...] = (),
        on_disconnect: str = "",
        once: idempotency.Once | None = None,
        queue_timeout_s: float | None = None,
        wait_for_worker_s: float = 0.0,
        reader: str = "",
        keep: Callable[[GenerateRequest], Kept] | None = None,
        ip: str = "",
    ) -> GenerateRequest:
        """Put one request on its model's queue, or on that of one of a group's models.

        What its `once` has started already is returned instead. `on_disconnect` is what becomes of
        the job when its `readers` are gone; empty where the door sees to that itself. `reader`, if
        any, has a lease afterwards, and is to `arrive` at once. A job that no worker has taken
        within `queue_timeout_s` (else as the settings say) ends in QueueTimeout; with
        `wait_for_worker_s` it waits as long for a worker of a model that has none alive. `keep`
        gives the chat or battle that the job answers, to be kept in the same transaction. `ip` is
        the address that asks, for the chat log.

        A seed of 0 stands for "any": a random one is drawn here, so that a retry elsewhere
        continues the same draw. `path` has the cells that the request has come through.

        Raises:
            ChatChanged, ChatNotFound, ChatTooLarge: see `broker.chats`.
            KeyReused: `once` came with another body before.
            LoopDetected: it has come through this one.
            InvalidRequest: no message, an empty last one, a ready prompt beside others, too many
                images, images for a model that takes none.
            ModelNotFound, NoLiveWorker, QueueFull, RedisUnavailable: see `broker.errors`.
        """
        if once is not None and (started := idempotency.find(self._once, once)) is not None:
            return self._attach(started, reader)
        if path:
            cell.check_path(path, cell.cell_id(self._once))
        info = self._find(model, messages, may_be_absent=wait_for_worker_s > 0)
        admission.check(info, messages, self.settings.max_images)
        job_id = uuid.uuid4().hex
        with self._subscriber.expect(job_id) if reader else nullcontext(_wait_for_nothing) as heard:
            request = GenerateRequest(
                id=job_id,
                model=info.name,
                messages=tuple(messages),
                sampling=_seeded(sampling),
                created_s=time.time(),
                path=path,
            )
            record = keep(request) if keep else None

            def also(pipe: Pipeline) -> None:
                self._add(pipe, job_id, reader, record, ip)
                heard()

            started = self._submitter.submit(
                request,
                on_disconnect,
                once,
                may_wait=admission.patience(
                    info, queue_timeout_s, wait_for_worker_s, self.settings.queue_timeout_s
                ),
                jobs_per_s=info.jobs_per_s,
                check=(lambda pipe: check(pipe, record)) if record else None,
                also=also,
            )
        return request if started == job_id else self._attach(started, reader)

    def _add(self, pipe: Pipeline, job_id: str, reader: str, record: Kept | None, ip: str) -> None:
        """Queue what belongs into a job's submission: who asks, and in which chat."""
        if kept := self.feedback.kept(ip):
            feedback.note_ip(pipe, job_id, kept)
        if reader:
            hold(pipe, {reader: job_id})
        if record is not None:
            write_sent(pipe, record, job_id)

    def _attach(self, job_id: str, reader: str) -> GenerateRequest:
        if reader:
            hold(self._once, {reader: job_id})
        return jobs.read(self._once, job_id).request

    def _find(
        self, model: str, messages: Sequence[ChatMessage], *, may_be_absent: bool
    ) -> ModelInfo:
        sees = any(message.images for message in messages)
        try:
            return self.fleet.find(model, sees=sees, may_be_absent=may_be_absent)
        except NoLiveWorker:
            check_writes(self._once)  # heartbeats are writes, and expire when Redis takes none
            raise

    def follow(
        self, request: GenerateRequest, after: EventId = START, *, tick_s: float = 0.5
    ) -> Events:
        """Yield the events of an answer in order; None each `tick_s` seconds of silence.

        Raises:
            NoLiveWorker: the answer is silent and its model has had no live worker for a while,
                or for as long as the job was to wait for one.
            JobNotFound, RedisUnavailable: see `broker.subscriber`.
        """
        watch = OrphanWatch(self._redis, self.fleet, request)
        for event in self._subscriber.follow(request.id, after, tick_s=tick_s):
            yield event
            if event is None:
                watch.look()
            else:
                watch.reset()
