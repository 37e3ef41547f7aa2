"""Queues on RQ, one for each model: their jobs, keys and leases, and where a job stands.

The RQ job carries only an id; the request itself lies in `helio:job:{id}`. A job's function must
stand in `FUNCTIONS`: RQ would import and call any dotted name that somebody wrote into Redis.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NoReturn

import redis
from redis.client import Pipeline
from rq import Queue, Retry
from rq.executions import Execution
from rq.intermediate_queue import IntermediateQueue
from rq.job import Job
from rq.registry import StartedJobRegistry
from rq.serializers import JSONSerializer

from broker.attempts import ALLOW_OOM

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


def new_job(client: redis.Redis, job_id: str) -> Job:
    """RQ's job for a request, not on any queue yet."""
    return GenerateJob.create(
        "broker.queues.generate",
        args=(job_id,),
        id=job_id,
        connection=client,
        serializer=JSONSerializer,
        description=f"generate {job_id}",
        timeout=-1,
        result_ttl=0,
        failure_ttl=FAILURE_TTL_S,
        retry=Retry(max=MAX_DEATHS, enqueue_at_front=True),
    )


def position(client: redis.Redis, model: str, job_id: str) -> int | None:
    """Jobs before this one in its queue; None when it is not waiting."""
    ahead: Any = client.lpos(queue_key(model), job_id)
    return None if ahead is None else int(ahead)
