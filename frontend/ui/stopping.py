"""Ending answers from a page: what fails on the way is logged, for nobody waits for it."""

from __future__ import annotations

import logging
from typing import TypeVar

from broker.chats import Store
from broker.conversation import Kept
from broker.errors import ErrorBody, HeliographError
from frontend.jobs import Jobs

log = logging.getLogger(__name__)

K = TypeVar("K", bound=Kept)


def stop(jobs: Jobs, record: Kept) -> None:
    """Cancel the answers under way, whoever reads them; they end with what has been said."""
    for answer in record.running:
        cancel(jobs, answer.job)


def cancel(jobs: Jobs, job_id: str) -> None:
    """Cancel a job."""
    try:
        jobs.cancel(job_id)
    except HeliographError as failure:
        log.warning("job %s could not be cancelled: %s", job_id, failure)


def fail(jobs: Jobs, store: Store[K], record: K, job_id: str, error: ErrorBody) -> None:
    """Note in a chat or battle that an answer has failed; nobody shall go on with it."""
    cancel(jobs, job_id)
    try:
        store.change(record.owner, record.id, lambda now: now.fail(job_id, error))
    except HeliographError as failure:
        log.warning("how job %s failed is not in its %s: %s", job_id, record.kind, failure)
