"""What becomes of jobs whose worker died: tried again, tried apart, or set aside.

All that a dead worker ran died with it, and nothing says which job did it. So each death is counted
for all of them, and a job is set aside when it has died twice and more often than all that ran
beside it. Those that are even are tried again, one at a time in a worker: the next death tells.
Jobs that were handed over in order, or lost by a worker that lives, are given back uncounted.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import redis

from broker import channel, keys, leases, quarantine, registry
from broker.errors import WorkerFailed
from broker.leases import Lease
from broker.messages import WorkerInfo
from broker.queues import MAX_DEATHS

log = logging.getLogger(__name__)


_ENDED = (b"done", b"failed", b"cancelled")


class _Held(NamedTuple):
    """A lease, and what the job's record says."""

    lease: Lease
    worker: str
    deaths: int
    ended: bool


def sweep(client: redis.Redis, model: str, now_s: float) -> None:
    """Take away the leases that have run out, and those of the same dead workers with them."""
    found = leases.read(client, model)
    if not found or found[0].expires_s > now_s:
        return
    latest = {lease.job_id: lease for lease in found}  # the oldest come first
    expired = [lease for lease in found if lease.expires_s <= now_s]
    _close_lost(client, model, [lease for lease in expired if latest[lease.job_id] is not lease])
    held = _look_up(client, list(latest.values()))
    late = [each for each in held if each.lease.expires_s <= now_s]
    dead = _dead(client, {each.worker for each in late})
    by_worker: dict[str, list[_Held]] = defaultdict(list)
    for each in held:
        if each.worker in dead and not each.ended:
            by_worker[each.worker].append(each)
    for worker, group in by_worker.items():
        _settle(client, model, worker, group)
    _give_back(client, model, [each for each in late if each.ended or each.worker not in dead])


def bury(client: redis.Redis, worker: WorkerInfo) -> None:
    """Take a worker that vanished out of the registry, and its leases away."""
    log.warning("worker %s of %s has vanished", worker.id, worker.model)
    latest = {lease.job_id: lease for lease in leases.read(client, worker.model)}
    held = [e for e in _look_up(client, list(latest.values())) if e.worker == worker.id]
    _settle(client, worker.model, worker.id, [each for each in held if not each.ended])
    registry.withdraw(client, worker.id)


def settle(client: redis.Redis, model: str, worker_id: str, held: Sequence[Lease]) -> None:
    """Decide about the jobs of a worker that knows that it dies."""
    _settle(client, model, worker_id, [e for e in _look_up(client, held) if not e.ended])


def _look_up(client: redis.Redis, held: Sequence[Lease]) -> list[_Held]:
    pipe = client.pipeline(transaction=False)
    for lease in held:
        pipe.hmget(keys.job(lease.job_id), "worker", "deaths", "state")
    return [
        _Held(lease, (worker or b"").decode(), int(deaths or 0), state in _ENDED)
        for lease, (worker, deaths, state) in zip(held, pipe.execute(), strict=True)
    ]


def _dead(client: redis.Redis, worker_ids: set[str]) -> set[str]:
    """Those that do not say that they live; a heartbeat expires before a lease does."""
    ids = sorted(worker_ids)
    pipe = client.pipeline(transaction=False)
    for worker_id in ids:
        pipe.hget(keys.worker(worker_id), "state")
    states: Mapping[str, Any] = dict(zip(ids, pipe.execute(), strict=True))
    return {worker_id for worker_id in ids if states[worker_id] in (None, b"failed")}


def _settle(client: redis.Redis, model: str, worker: str, group: list[_Held]) -> None:
    worst = max((each.deaths + 1 for each in group), default=0)
    blamed = [each for each in group if worst >= MAX_DEATHS and each.deaths + 1 == worst]
    guilty = blamed[0] if len(blamed) == 1 else None
    pipe = client.pipeline()
    for each in reversed(group):
        if each is not guilty:
            log.warning("job %s is queued again: its worker %s died", each.lease.job_id, worker)
            apart = each.deaths + 1 >= MAX_DEATHS
            leases.give_back(pipe, model, each.lease, death=True, suspect=apart)
    pipe.execute()
    if guilty is not None:
        _set_aside(client, model, worker, guilty)


def _set_aside(client: redis.Redis, model: str, worker: str, guilty: _Held) -> None:
    """End a job for good. Each step may be repeated, and the lease goes last."""
    job_id, deaths = guilty.lease.job_id, guilty.deaths + 1
    log.error("job %s is set aside: it ran when its worker died, %d times", job_id, deaths)
    quarantine.set_aside(client, job_id, worker, deaths)
    error = WorkerFailed(
        f"Job {job_id} was running each time when {deaths} workers died, so it was set aside "
        "under its id for the operator to look at. Change the request before you send it again."
    )
    channel.fail(client, job_id, worker, error.body)
    pipe = client.pipeline()
    leases.close(pipe, model, guilty.lease)
    pipe.execute()


def _close_lost(client: redis.Redis, model: str, lost: list[Lease]) -> None:
    """End leases of jobs that have a later one."""
    pipe = client.pipeline()
    for lease in lost:
        leases.close(pipe, model, lease, job=False)
    pipe.execute()


def _give_back(client: redis.Redis, model: str, late: list[_Held]) -> None:
    pipe = client.pipeline()
    for each in reversed(late):
        if each.ended:
            leases.close(pipe, model, each.lease)
        else:
            log.warning("job %s is queued again: nobody runs it", each.lease.job_id)
            leases.give_back(pipe, model, each.lease)
    pipe.execute()
