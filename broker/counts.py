"""Counting the tokens of a text, which only the workers of its model can.

The text waits under a short-lived key and all workers are told of it on `helio:control`. The first
one of the model that takes it answers on a list that somebody waits at. Knows no tokenizer.
"""

from __future__ import annotations

import json
import time
import uuid
from typing import Any, Final, cast

import redis

from broker import keys
from broker.errors import NoLiveWorker, RequestTooLarge

MAX_CHARACTERS: Final = 500_000
"""Longest text that is counted: on one core 0.8 s as prose, 2.7 s as emoji, with the demo model."""

_WAIT_S = 1.0
"""Longest wait for one reply; a client's socket gives up a little later."""


def count_tokens(client: redis.Redis, model: str, text: str, timeout_s: float = 3.0) -> int:
    """Count a text's tokens as a prompt, by any live worker of a model.

    The text is taken as a template wrote it: control tokens in it are recognised, and those that
    the tokenizer puts before any text are counted.

    Raises:
        RequestTooLarge: the text has more than `MAX_CHARACTERS`.
        NoLiveWorker: none that has a tokenizer answered within `timeout_s`.
        redis.RedisError: Redis does not answer.
    """
    if len(text) > MAX_CHARACTERS:
        raise RequestTooLarge(
            f"The text has {len(text)} characters; tokens are counted in {MAX_CHARACTERS} at "
            "most. Count it in parts."
        )
    count_id = uuid.uuid4().hex
    pipe = client.pipeline()
    pipe.set(keys.count_text(count_id), text, ex=keys.COUNT_TTL_S)
    pipe.publish(keys.CONTROL, json.dumps({"count": count_id, "model": model}))
    pipe.execute()
    deadline = time.monotonic() + timeout_s
    while (left_s := deadline - time.monotonic()) > 0:
        wait_s = max(0.01, min(left_s, _WAIT_S))  # 0 would wait for ever
        reply: Any = client.blpop([keys.count(count_id)], cast(int, wait_s))
        if reply is not None:
            return int(reply[1])
    raise NoLiveWorker(
        f"No worker of model {model!r} counted the tokens within {timeout_s:g} s. Start one that "
        "has the model's tokenizer, or try again.",
        param="model",
    )


def take(client: redis.Redis, count_id: str) -> str | None:
    """Take the text that is to be counted; None if another worker was first, or it expired."""
    text: Any = client.getdel(keys.count_text(count_id))
    return None if text is None else text.decode()


def answer(client: redis.Redis, count_id: str, tokens: int) -> None:
    """Tell whoever asked how many tokens there are."""
    pipe = client.pipeline()
    pipe.rpush(keys.count(count_id), tokens)
    pipe.expire(keys.count(count_id), keys.COUNT_TTL_S)
    pipe.execute()
