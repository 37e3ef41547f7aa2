"""Per-model job queues on RQ: submit, length, position, cancel.

The RQ job carries only an id; the request itself lies in `helio:job:{id}`. A job's function must
stand in `FUNCTIONS`: RQ would import and call any dotted name that somebody wrote into Redis.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final, NoReturn

import redis
from redis.client import Pipeline
from redis.exceptions import WatchError
from rq import Queue, Retry
from rq.executions import Execution
from rq.intermediate_queue import IntermediateQueue
from rq.job import Job
from rq.registry import StartedJobRegistry
from rq.serializers import JSONSerializer

from broker import ages, entrance, estimates, idempotency, keys, patience
from broker.attempts import ALLOW_OOM, NEXT_ATTEMPT
from broker.errors import HeliographError, QueueFull
from broker.events import End, EventId, Timings, Usage, encode_event
from broker.idempotency import Once
from broker.messages import GenerateRequest
from broker.patience import Patience

MAX_DEATHS: Final = 2
"""A job whose worker died so often is set aside, if it can be told from those that ran beside it.

RQ's own retries are as many, in case that a tool of RQ's cleans up before the janitor does.
"""

MAX_FAILURES: Final = 2
"""A job goes back to its queue so often after the upstreams of a worker failed."""

FAILURE_TTL_S: Final = 3600

ANSWER_PREFIX: Final = "chatcmpl-"
"""What OpenAI's routes put before a job's id."""


def generate(job_id: str) -> NoReturn:
    """Name of the work in RQ's records; `workers.worker.BatchWorker` runs it, nobody calls it."""
    raise RuntimeError(f"job {job_id} needs Heliograph's own worker: python -m workers")


FUNCTIONS: Final[dict[str, Callable[..., Any]]] = {"broker.queues.generate": generate}


_SCORE = f"""{ALLOW_OOM}
local time = redis.call('TIME')
local expires = string.format('%.3f', time[1] + time[2] / 1000000 + ARGV[2])
return redis.call('ZADD', KEYS[1], ARGV[3], expires, ARGV[1])
"""


class LeaseRegistry(StartedJobRegistry):
    """RQ's registry of running jobs, scored by the clock that judges it, which is Redis's."""

    def add_execution(
        self, execution: Execution, pipeline: Pipeline, ttl: int = 0, xx: bool = False
    ) -> int:
        """Queue on `pipeline` that a lease lasts `ttl` seconds from now on; `xx`: if it exists."""
        only = "XX" if xx else "CH"
        pipeline.eval(_SCORE, 1, self.key, execution.composite_key, str(ttl), only)
        return 0


class GenerateJob(Job):
    """An RQ job that can only name a function of the table, and runs no callback or webhook."""

    @property
    def started_job_registry(self) -> LeaseRegistry:
        """The leases of this job's model."""
        return LeaseRegistry(
            self.origin,
            connection=self.connection,
            job_class=type(self),
            serializer=self.serializer,
        )

    @property
    def func(self) -> Callable[..., Any]:
        """The function from the table.

        Raises:
            PermissionError: the record names another function.
        """
        if self.func_name not in FUNCTIONS:
            raise PermissionError(f"job {self.id} names a function that is not allowed")
        return FUNCTIONS[self.func_name]

    def execute_success_callback(self, *_: object) -> None:
        """Do nothing: callbacks come from Redis and are not trusted."""

    def execute_failure_callback(self, *_: object) -> None:
        """Do nothing: callbacks come from Redis and are not trusted."""

    def execute_stopped_callback(self, *_: object) -> None:
        """Do nothing: callbacks come from Redis and are not trusted."""

    def send_webhooks(self, *_: object, **__: object) -> None:
        """Do nothing: a URL that stands in Redis is not called."""


def queue_key(model: str) -> str:
    """Redis list of the model's waiting jobs."""
    return f"{Queue.redis_queue_namespace_prefix}{model}"


def intermediate_key(model: str) -> str:
    """Redis list of jobs that were popped but not yet started."""
    return IntermediateQueue.get_intermediate_queue_key(queue_key(model))


_PUT_BACK = f"""{ALLOW_OOM}
if redis.call('LREM', KEYS[1], 1, ARGV[1]) == 1 then redis.call(ARGV[2], KEYS[2], ARGV[1]) end
"""


def put_back(client: redis.Redis, model: str, job_id: str, *, at_front: bool = True) -> None:
    """Return a job that was popped but not started to the front, or the end, of its queue."""
    push = "LPUSH" if at_front else "RPUSH"
    client.eval(_PUT_BACK, 2, intermediate_key(model), queue_key(model), job_id, push)


def model_queue(client: redis.Redis, model: str) -> Queue:
    """RQ's queue of a model."""
    return Queue(
        model,
        connection=client,
        serializer=JSONSerializer,
        job_class=GenerateJob,
        default_timeout=-1,
    )


class Submitter:
    """Puts requests on their models' queues.

    A submission is one transaction: the request's record and the RQ job appear together or not at
    all. The client must not retry, since RQ's enqueue would then happen twice.
    """

    def __init__(self, client: redis.Redis, *, max_queue_length: int) -> None:
        """Use `client` (made with retry=False); refuse beyond `max_queue_length` waiting jobs."""
        self._client = client
        self._max = max_queue_length
        self._queues: dict[str, Queue] = {}

    def submit(
        self,
        request: GenerateRequest,
        on_disconnect: str = "",
        once: Once | None = None,
        *,
        may_wait: Patience = patience.ENDLESS,
        jobs_per_s: float = 0.0,
        check: Callable[[Pipeline], None] | None = None,
        also: Callable[[Pipeline], None] | None = None,
    ) -> str:
        """Enqueue a request, unless its `once` has started a job already; return the job's id.

        `on_disconnect` is written down for `readers`; empty if they have no say. `jobs_per_s` is
        the model's rate, 0 if it is not known: whoever is refused is told by it when to come back.
        `also` queues more, to be done in the same transaction as the last thing; `check` may watch
        keys until then, or raise.

        Raises:
            KeyReused: `once` has started a job with another body.
            QueueFull: the model's queue is at its bound.
            RedisError: Redis did not answer; the job may or may not have been enqueued.
        """
        queue = self._queues.get(request.model)
        if queue is None:
            queue = self._queues[request.model] = model_queue(self._client, request.model)
        length = entrance.enter(self._client, queue.key, request.model, request.id, self._max)
        if length >= self._max:
            raise QueueFull(
                f"{length} requests already wait for model {request.model!r}, which is the limit. "
                "Try again later.",
                retry_after_s=estimates.retry_after_s(length - self._max + 1, jobs_per_s),
            )
        try:
            started = self._enqueue(queue, request, on_disconnect, once, may_wait, check, also)
        except HeliographError:
            entrance.leave(self._client, request.model, request.id)
            raise
        if started != request.id:
            entrance.leave(self._client, request.model, request.id)
        return started

    def _enqueue(
        self,
        queue: Queue,
        request: GenerateRequest,
        on_disconnect: str,
        once: Once | None,
        may_wait: Patience,
        check: Callable[[Pipeline], None] | None,
        also: Callable[[Pipeline], None] | None,
    ) -> str:
        while True:
            with self._client.pipeline() as pipe:
                if once is not None:
                    pipe.watch(once.name)  # type: ignore[no-untyped-call]
                    if (started := idempotency.find(pipe, once)) is not None:
                        return started
                if check is not None:
                    check(pipe)
                self._write(pipe, queue, request, on_disconnect)
                entrance.leave(pipe, request.model, request.id)
                patience.write(pipe, request.id, may_wait)
                if once is not None:
                    pipe.set(once.name, once.value(request.id), ex=keys.JOB_TTL_S)
                if also is not None:
                    also(pipe)
                try:
                    pipe.execute()
                    return request.id
                except WatchError:  # somebody else was quicker
                    continue

    def _write(
        self, pipe: Pipeline, queue: Queue, request: GenerateRequest, on_disconnect: str
    ) -> None:
        job = GenerateJob.create(
            "broker.queues.generate",
            args=(request.id,),
            id=request.id,
            connection=self._client,
            serializer=JSONSerializer,
            description=f"generate {request.id}",
            timeout=-1,
            result_ttl=0,
            failure_ttl=FAILURE_TTL_S,
            retry=Retry(max=MAX_DEATHS, enqueue_at_front=True),
        )
        queue.enqueue_job(job, pipeline=pipe)  # first: RQ opens the transaction itself
        record = {
            "request": request.model_dump_json(),
            "state": "queued",
            "model": request.model,
            "on_disconnect": on_disconnect,
        }
        pipe.hset(keys.job(request.id), mapping=record)  # type: ignore[arg-type]
        ages.stamp(pipe, request.id)
        pipe.expire(keys.job(request.id), keys.JOB_TTL_S)


def position(client: redis.Redis, model: str, job_id: str) -> int | None:
    """Jobs before this one in its queue; None when it is not waiting."""
    ahead: Any = client.lpos(queue_key(model), job_id)
    return None if ahead is None else int(ahead)


END_WAITING: Final = f"""{NEXT_ATTEMPT}
local function end_waiting(queue, job, log, live, record, server, id, event, state, ttl)
  if redis.call('LREM', queue, 1, id) == 0 then return false end
  local entry = next_attempt(job, server) .. '-0'
  local fields = cjson.decode(event)
  local flat = {{}}
  for key, value in pairs(fields) do flat[#flat + 1] = key; flat[#flat + 1] = value end
  redis.call('XADD', log, entry, unpack(flat))
  redis.call('PUBLISH', live, cjson.encode({{entry, fields}}))
  redis.call('HSET', job, 'state', state)
  redis.call('EXPIRE', log, redis.call('HGET', job, 'keep_s') or ttl)
  redis.call('DEL', record)
  return true
end
"""
"""Lua: end a job with its last event if it is still in its queue; else return false."""

# Either the job is still in the queue: it ends here; or a worker has it: the worker is told.
_CANCEL = f"""{ALLOW_OOM}{END_WAITING}
local model = redis.call('HGET', KEYS[1], 'model')
if not model then return 0 end
local state = redis.call('HGET', KEYS[1], 'state')
if state == 'done' or state == 'failed' or state == 'cancelled' then return 1 end
redis.call('HSET', KEYS[1], 'cancel', '1')
local job, log, live, record, server = KEYS[1], KEYS[2], KEYS[3], KEYS[5], KEYS[6]
local queue, id, event, ttl = ARGV[1] .. model, ARGV[2], ARGV[3], ARGV[4]
if not end_waiting(queue, job, log, live, record, server, id, event, 'cancelled', ttl) then
  redis.call('PUBLISH', KEYS[4], ARGV[5])
end
return 1
"""


def cancel(client: redis.Redis, job_id: str) -> bool:
    """Cancel a job: a waiting one ends at once, a running one within one decode step.

    Returns:
        Whether the job is known. Cancelling an ended job changes nothing.
    """
    ended = End(EventId(0, 0), "", (), "cancelled", Usage(0, 0), Timings(0.0, 0.0, 0.0))
    known = client.eval(
        _CANCEL,
        6,
        keys.job(job_id),
        keys.events(job_id),
        keys.live(job_id),
        keys.CONTROL,
        Job.key_for(job_id),
        keys.SERVER,
        Queue.redis_queue_namespace_prefix,
        job_id,
        json.dumps(encode_event(ended)),
        str(keys.ENDED_EVENTS_TTL_S),
        json.dumps({"cancel": job_id}),
    )
    return bool(known)
