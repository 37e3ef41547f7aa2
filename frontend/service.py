"""The one way in: submit a chat, follow its answer, cancel it, vote on it.

Every door (OpenAI routes, chat page) translates to these calls. The service knows Redis only
through the broker, keeps nothing in memory but its connections, and may be used from many threads
or greenlets at once.
"""

from __future__ import annotations

import secrets
import time
import uuid
from collections.abc import Callable, Sequence

from redis.client import Pipeline

from broker import (
    cell,
    counts,
    estimates,
    feedback,
    foreign,
    idempotency,
    images,
    jobs,
    queues,
    registry,
)
from broker.battles import Duels, Tally
from broker.chats import Battles, Chats, check, write_sent
from broker.connection import check_writes, connect, redis_errors
from broker.conversation import Kept
from broker.errors import NoLiveWorker
from broker.events import START, Event, EventId
from broker.foreign import ForeignWorker
from broker.messages import (
    ChatMessage,
    GenerateRequest,
    ModelInfo,
    SamplingParams,
    WorkerInfo,
)
from broker.outage import Outage
from broker.proxies import behind
from broker.readers import Readers, hold
from broker.settings import Settings
from broker.subscriber import Events, Subscriber
from frontend import admission, pictures, videos
from frontend.fleet import Fleet
from frontend.line import Line, Place
from frontend.orphans import OrphanWatch

Offload = Callable[[Callable[[], None]], None]


def _directly(computation: Callable[[], None]) -> None:
    computation()


def _join(
    request: GenerateRequest, reader: str, record: Kept | None, ip: str
) -> Callable[[Pipeline], None]:
    """What belongs into the transaction that submits the job: who asks, in which chat."""

    def queue_all(pipe: Pipeline) -> None:
        if ip:
            feedback.note_ip(pipe, request.id, ip)
        if reader:
            hold(pipe, {reader: request.id})
        if record is not None:
            write_sent(pipe, record, request.id)

    return queue_all


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
        self._offload = offload
        self._redis = connect(settings.url)
        # One attempt only: a refusal comes in time, and open streams, which try again by
        # themselves, can say between two tries that they live.
        self._once = connect(settings.url, retry=False)
        self._submitter = queues.Submitter(self._once, max_queue_length=settings.max_queue_length)
        self._tally = Tally()
        outage = Outage()
        self._subscriber = Subscriber(self._once, outage)
        self.readers = Readers(self._redis, outage)
        self.chats = Chats(self._once)
        self.battles = Battles(self._once)
        self.fleet = Fleet(settings, self._once)
        self._line = Line(self._once, self.fleet)

    def close(self) -> None:
        """Close the connections; for tests and short programs."""
        self._subscriber.close()
        self.readers.close()
        for client in (self._redis, self._once):
            client.close()

    def ping(self) -> None:
        """Check that Redis answers.

        Raises:
            RedisUnavailable: it does not.
        """
        with redis_errors():
            self._once.ping()

    def models(self) -> list[ModelInfo]:
        """Models that live workers serve, and groups of them, by name."""
        with redis_errors():
            return self.fleet.models()

    def workers(self) -> list[WorkerInfo]:
        """Live workers, by model and id."""
        with redis_errors():
            return registry.workers(self._once)

    def cell_id(self) -> str:
        """The id of this system among connected ones."""
        with redis_errors():
            return cell.cell_id(self._once)

    def register_worker(self, worker: ForeignWorker) -> None:
        """Take a foreign worker into the fleet, or renew what is known of it."""
        with redis_errors():
            foreign.register(self._once, worker)

    def receive_heart_beat(self, address: str, queue_length: int) -> bool:
        """Note that a foreign worker lives; False when it has to register again."""
        with redis_errors():
            return foreign.beat(self._once, address, queue_length)

    def withdraw_worker(self, address: str) -> bool:
        """Take a foreign worker out of the fleet; False when it was not in it."""
        with redis_errors():
            return foreign.withdraw(self._once, address)

    def store_image(self, data: bytes, *, param: str | None = None) -> str:
        """Check a picture, store it and return its SHA-256.

        Raises:
            InvalidImage: not a picture that may be opened, or damaged.
            RequestTooLarge: over the byte or pixel limit.
        """
        limits = self.settings
        sha256 = images.digest(data)
        with redis_errors():
            if images.exists(self._once, sha256):
                return sha256
        self._offload(
            lambda: pictures.check(
                data,
                max_bytes=limits.max_image_bytes,
                max_pixels=limits.max_image_pixels,
                param=param,
            )
        )
        with redis_errors():
            return images.put(self._once, data)

    def store_video(self, data: bytes, frames: int, *, param: str | None = None) -> tuple[str, ...]:
        """Take frames from a video, store them as pictures and return the SHA-256 of each.

        Raises:
            InvalidImage: not a video that may be opened, or damaged.
            RequestTooLarge: over the byte or pixel limit.
        """
        taken: list[bytes] = []
        self._offload(
            lambda: taken.extend(
                videos.read_frames(
                    data,
                    frames,
                    max_bytes=self.settings.max_video_bytes,
                    max_pixels=self.settings.max_image_pixels,
                    param=param,
                )
            )
        )
        with redis_errors():
            return tuple(images.put(self._once, frame) for frame in taken)

    def image(self, sha256: str) -> bytes:
        """The uploaded bytes of a stored picture.

        Raises:
            InvalidImage: it is not stored (any more).
        """
        with redis_errors():
            return images.get(self._once, [sha256])[sha256]

    def count_tokens(self, model: str, text: str) -> int:
        """Tokens of a text as a prompt for a model.

        Raises:
            ModelNotFound, NoLiveWorker, RequestTooLarge, RedisUnavailable: see `broker.errors`.
        """
        with redis_errors():
            info = self.fleet.find(model, sees=False)
            return counts.count_tokens(self._once, info.name, text)

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
        with redis_errors():
            if once is not None and (started := idempotency.find(self._once, once)) is not None:
                return self._attach(started, reader)
            if path:
                cell.check_path(path, cell.cell_id(self._once))
            info = self._find(model, messages, may_be_absent=wait_for_worker_s > 0)
            admission.check(info, messages, self.settings.max_images)
            if sampling.seed == 0:
                sampling = sampling.model_copy(update={"seed": secrets.randbelow(2**63 - 1) + 1})
            request = GenerateRequest(
                id=uuid.uuid4().hex,
                model=info.name,
                messages=tuple(messages),
                sampling=sampling,
                created_s=time.time(),
                path=path,
            )
            record = keep(request) if keep else None
            started = self._submitter.submit(
                request,
                on_disconnect,
                once,
                may_wait=admission.patience(
                    info, queue_timeout_s, wait_for_worker_s, self.settings.queue_timeout_s
                ),
                jobs_per_s=info.jobs_per_s,
                check=(lambda pipe: check(pipe, record)) if record else None,
                also=_join(request, reader, record, self._kept(ip)),
            )
            return request if started == request.id else self._attach(started, reader)

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

    def job(self, job_id: str) -> jobs.Job:
        """What is known of a job.

        Raises:
            JobNotFound: its record has expired or never existed.
        """
        with redis_errors():
            return jobs.read(self._redis, job_id)

    def ending(self, job: jobs.Job, after: EventId) -> Event | None:
        """The job's terminal event if nothing comes after `after`; see `broker.jobs`."""
        with redis_errors():
            return jobs.ending(self._redis, job, after)

    def place(self, request: GenerateRequest) -> Place | None:
        """Where a job stands in its queue, as of the last second; None when it is not waiting."""
        with redis_errors():
            return self._line.place(request.model, request.id)

    def eta_s(self, job: jobs.Job) -> float | None:
        """Seconds until a waiting job's turn; None when it is not waiting, or nothing is known."""
        if job.position is None:
            return None
        with redis_errors():
            return estimates.turn_s(job.position, self.fleet.jobs_per_s(job.request.model))

    def cancel(self, job_id: str) -> bool:
        """Cancel a job; False when it is unknown. Cancelling an ended job changes nothing."""
        with redis_errors():
            return queues.cancel(self._redis, job_id)

    def vote(
        self,
        job_id: str,
        kind: feedback.Vote,
        reason: str = "",
        *,
        comment: str = "",
        ip: str = "",
        replaces: str = "",
    ) -> str:
        """Record a vote on an answer, or why it was cast; return its entry id.

        Raises:
            InvalidRequest: the kind of vote is unknown, or reason or comment is too long.
            JobNotFound: the job's record has expired or never existed.
        """
        with redis_errors():
            return feedback.vote(
                self._redis,
                job_id,
                kind,
                reason,
                comment=comment,
                ip=self._kept(ip),
                replaces=replaces,
            )

    def battle(
        self,
        left_id: str,
        right_id: str,
        outcome: feedback.Outcome,
        reason: str = "",
        *,
        comment: str = "",
        ip: str = "",
        anonymous: bool = False,
    ) -> str:
        """Record which of two answers to a message is better; see `broker.feedback.battle`."""
        with redis_errors():
            return feedback.battle(
                self._redis,
                left_id,
                right_id,
                outcome,
                reason,
                comment=comment,
                ip=self._kept(ip),
                anonymous=anonymous,
            )

    def compared(self, left_id: str, right_id: str) -> feedback.Outcome | None:
        """Which of two answers was found better, if they were compared."""
        with redis_errors():
            return feedback.compared(self._redis, left_id, right_id)

    def _kept(self, ip: str) -> str:
        """What the logs keep of an address; nothing of what is none."""
        return behind(ip, "", ()) if self.settings.log_ip == "full" else ""

    def duels(self) -> Duels:
        """How models fared against each other; `broker.strengths` makes a leaderboard of it."""
        with redis_errors():
            return self._tally.read(self._redis)
