"""What is said to all workers at once: a thread that hears `helio:control`.

It cancels jobs and passes orders on itself; texts are counted in a thread beside it, so that a long
one delays no cancellation. Whatever is heard, neither thread ends.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from redis.exceptions import RedisError

from broker import counts, keys
from broker.outage import FIRST_PAUSE_S, MAX_PAUSE_S
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
    counting = ThreadPoolExecutor(1, thread_name_prefix="count")
    pause_s = FIRST_PAUSE_S
    while True:
        try:
            if not pubsub.subscribed:
                pubsub.subscribe(keys.CONTROL, keys.worker_here(worker.name))
            message = pubsub.get_message(timeout=1.0)
        except (RedisError, OSError) as error:
            worker.outage.begin("orders", error)
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, MAX_PAUSE_S)
            continue
        worker.outage.end("orders")
        pause_s = FIRST_PAUSE_S
        if message is not None:
            _obey(worker, counting, message["data"])


def _obey(worker: BatchWorker, counting: ThreadPoolExecutor, data: bytes) -> None:
    try:
        command = json.loads(data)
        match command:
            case {"count": count_id, "model": model}:
                if model == worker.queue.name:
                    counting.submit(_count, worker, str(count_id))
            case {"pause": model} | {"resume": model}:
                if model == worker.queue.name:
                    worker.pause("pause" in command)
            case {"drain": worker_id}:
                if worker_id == worker.name:
                    worker.drain("an order")
            case _:
                worker.cancel(str(command["cancel"]))
    except Exception as error:  # whatever a stranger may have published
        log.warning("no command on %s (%s): %.80r", keys.CONTROL, error, data)


def _count(worker: BatchWorker, count_id: str) -> None:
    """Count a text's tokens, unless another worker of the model was first."""
    count_tokens = getattr(worker.engine, "count_tokens", None)
    if count_tokens is None:  # an upstream, which has no tokenizer
        return
    try:
        text = counts.take(worker.redis, count_id)
        if text is not None:
            counts.answer(worker.redis, count_id, count_tokens(text))
    except Exception as error:  # whoever asked waits in vain, and is told so
        log.warning("tokens could not be counted: %s", error)
