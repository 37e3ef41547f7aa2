"""What is said to all workers at once: a thread that hears `helio:control`."""

from __future__ import annotations

import json
import logging
import threading
import time

from redis.exceptions import RedisError

from broker import keys
from workers.worker import BatchWorker

log = logging.getLogger(__name__)


def listen(worker: BatchWorker) -> threading.Thread:
    """Start the thread; it survives a Redis that goes away, and messages that are none."""
    thread = threading.Thread(target=_listen, args=(worker,), name="control", daemon=True)
    thread.start()
    return thread


def _listen(worker: BatchWorker) -> None:
    pubsub = worker.redis.pubsub(  # type: ignore[no-untyped-call]
        ignore_subscribe_messages=True
    )
    while True:
        try:
            if not pubsub.subscribed:
                pubsub.subscribe(keys.CONTROL)
            message = pubsub.get_message(timeout=1.0)
        except (RedisError, OSError) as error:
            log.warning("control channel lost, trying again: %s", error)
            time.sleep(0.5)
            continue
        if message is not None:
            _obey(worker, message["data"])


def _obey(worker: BatchWorker, data: bytes) -> None:
    try:
        worker.cancel(str(json.loads(data)["cancel"]))
    except Exception as error:  # whatever a stranger may have published
        log.warning("no command on %s (%s): %.80r", keys.CONTROL, error, data)
