"""A lock that one process at a time holds, by Redis's clock: it expires unless it is renewed."""

from __future__ import annotations

import redis

from broker.attempts import ALLOW_OOM

_HOLD = f"""{ALLOW_OOM}
local owner = redis.call('GET', KEYS[1])
if owner and owner ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
return 1
"""

_LET_GO = f"""{ALLOW_OOM}
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
"""


def hold(client: redis.Redis, key: str, owner: str, seconds: int) -> bool:
    """Take the lock, or renew it, for so many seconds; False while another holds it."""
    return bool(client.eval(_HOLD, 1, key, owner, str(seconds)))


def let_go(client: redis.Redis, key: str, owner: str) -> None:
    """Give the lock up if it is ours, so that the next one need not wait."""
    client.eval(_LET_GO, 1, key, owner)
