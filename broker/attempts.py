"""Numbers of attempts at a job, which never come again even where Redis lost its last second.

An event's id begins with its attempt's number, and clients keep ids. A Redis that was killed, or
whose replica took its place, may have forgotten attempts whose events were already told. It is then
another server run, and a job that is older than this run gets its age in milliseconds as the next
number, which is greater than any that was ever drawn for it. Knows nothing of what an attempt does.
"""

from __future__ import annotations

from typing import Final

from broker import keys

ALLOW_OOM: Final = "#!lua flags=allow-oom\n"
"""First line of a script that goes on when Redis is full: it ends or keeps what was accepted."""

NEXT_ATTEMPT: Final = f"""
local function next_attempt(job, server)
  local run = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)')
  local time = redis.call('TIME')
  local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
  local known = redis.call('HGET', server, 'run')
  if known ~= run then
    redis.call('HSET', server, 'run', run, 'since_ms', known and now_ms or 0)
  end
  local attempt = redis.call('HINCRBY', job, 'attempt', 1)
  local age_ms = {1000 * keys.JOB_TTL_S} - redis.call('PTTL', job)
  local since_ms = tonumber(redis.call('HGET', server, 'since_ms'))
  if now_ms - age_ms < since_ms and attempt < age_ms then
    attempt = age_ms
    redis.call('HSET', job, 'attempt', attempt)
  end
  return attempt
end
"""
"""Lua: `next_attempt(job, server)` draws the number, with `keys.job(...)` and `keys.SERVER`."""
