"""Every Redis key: pattern, type, lifetime, writer and readers. No key literal stands elsewhere.

| key                    | type    | lifetime            | written by | read by          |
|------------------------|---------|---------------------|------------|------------------|
| helio:workers          | set     | ids are swept       | workers    | frontend, broker |
| helio:worker:{id}      | hash    | 3 s, renewed each s | worker     | frontend, broker |
|                        |         | loading: 10 s       |            |                  |
|                        |         | failed: 60 s        |            | broker           |
| helio:worker:{id}:here | channel | while it works      | -          | workers          |
| helio:worker:{id}:log  | string  | 1 h, renewed each s | worker     | broker, workers  |
| helio:models           | hash    | for ever, tiny      | workers    | frontend         |
| helio:job:{id}         | hash    | 24 h                | frontend   | worker, frontend |
| helio:job:{id}:events  | stream  | 1 h, ended: 15 min; | worker     | frontend         |
|                        |         | a chat's: 30 days,  |            |                  |
|                        |         | until it is read    |            |                  |
| helio:job:{id}:live    | channel | -                   | worker     | frontend         |
| helio:job:{id}:readers | zset    | 5 s, renewed each s | frontend   | frontend         |
| helio:deadlines        | zset    | members are swept   | frontend   | workers          |
| helio:start-by         | zset    | members are swept   | API        | workers, API     |
| helio:idempotency:{k}  | string  | 24 h, as the job    | API        | API              |
| helio:job:{id}:drawn   | hash    | 30 days             | frontend   | frontend         |
| helio:lock:drawing:... | string  | while it is made    | frontend   | frontend         |
| helio:reader:{id}      | channel | while it reads      | -          | operators        |
| helio:control          | channel | -                   | frontend,  | workers          |
|                        |         |                     | broker     |                  |
| helio:coming:{model}   | zset    | 5 s                 | frontend   | frontend         |
| helio:paused           | set     | until resumed       | broker     | workers, broker  |
| helio:quarantine       | set     | ids are swept       | workers    | broker           |
| helio:quarantine:{id}  | hash    | 7 days              | workers    | broker           |
| helio:image:{sha256}   | string  | 24 h, renewed; of a | frontend   | worker, frontend |
|                        |         | chat: as the chat;  |            |                  |
|                        |         | of a job that was   |            |                  |
|                        |         | set aside: 7 days   |            |                  |
| helio:chat:{id}        | hash    | 30 days, renewed    | frontend   | frontend         |
|                        |         | with each change    |            |                  |
| helio:chats:{owner}    | zset    | the same            | frontend   | frontend         |
| helio:share:{token}    | string  | the same            | frontend   | frontend         |
| helio:battle:{id}      | hash    | as a chat           | frontend   | frontend         |
| helio:battles:{owner}  | zset    | the same            | frontend   | frontend         |
| helio:log:chats        | stream  | last 100,000        | worker     | operators        |
| helio:log:feedback     | stream  | for ever            | frontend   | operators, UI    |
| helio:log:moderation   | stream  | last 100,000        | UI         | operators        |
| helio:voted:{a}:{b}    | hash    | 24 h, as the jobs   | frontend   | frontend         |
| helio:history:{model}  | stream  | 1 h                 | worker     | frontend         |
| helio:count:{id}       | list    | 10 s                | worker     | API              |
| helio:count:{id}:text  | string  | 10 s, until taken   | API        | worker           |
| helio:lock:janitor     | string  | 2 s                 | workers    | workers          |
| helio:foreign          | set     | members are swept   | API        | bridge, API      |
| helio:foreign:{url}    | hash    | 35 s, FastChat's    | API,       | bridge, API      |
|                        |         | 100 s, renewed; or  | bridge     |                  |
|                        |         | until withdrawn     |            |                  |
| helio:lock:bridge      | string  | 5 s                 | bridges    | bridges          |
| helio:cell             | string  | for ever            | whoever is | API, workers     |
|                        |         |                     | first      |                  |
| helio:server           | hash    | for ever, tiny      | workers,   | workers, API     |
|                        |         |                     | API        |                  |
| helio:probe            | string  | 1 ms                | API        | -                |
| rq:queue:{model}       | list    | while jobs wait     | frontend   | worker           |

RQ keeps its own bookkeeping under `rq:` (job hashes, `rq:wip:{model}`, `rq:workers`).
"""

from __future__ import annotations

from typing import Final

WORKERS: Final = "helio:workers"
MODELS: Final = "helio:models"
CONTROL: Final = "helio:control"
CHAT_LOG: Final = "helio:log:chats"
FEEDBACK_LOG: Final = "helio:log:feedback"
MODERATION_LOG: Final = "helio:log:moderation"
PAUSED: Final = "helio:paused"
QUARANTINE: Final = "helio:quarantine"
JANITOR_LOCK: Final = "helio:lock:janitor"
BRIDGE_LOCK: Final = "helio:lock:bridge"
FOREIGN_WORKERS: Final = "helio:foreign"
CELL: Final = "helio:cell"
SERVER: Final = "helio:server"
PROBE: Final = "helio:probe"
DEADLINES: Final = "helio:deadlines"
START_BY: Final = "helio:start-by"

WORKER_TTL_S: Final = 3
LOADING_WORKER_TTL_S: Final = 10
FAILED_WORKER_TTL_S: Final = 60
WORKER_LOG_TTL_S: Final = 3600
JOB_TTL_S: Final = 24 * 3600
EVENTS_TTL_S: Final = 3600
ENDED_EVENTS_TTL_S: Final = 900
CHAT_TTL_S: Final = 30 * 24 * 3600
IMAGE_TTL_S: Final = 24 * 3600
COUNT_TTL_S: Final = 10
QUARANTINE_TTL_S: Final = 7 * 24 * 3600
READER_TTL_S: Final = 5
MAX_GRACE_S: Final = 3600
CHAT_LOG_LENGTH: Final = 100_000
MODERATION_LOG_LENGTH: Final = 100_000


def worker(worker_id: str) -> str:
    """Heartbeat hash of a worker."""
    return f"helio:worker:{worker_id}"


def worker_here(worker_id: str) -> str:
    """Channel that a worker is subscribed to while it works; Redis sees at once when it dies."""
    return f"helio:worker:{worker_id}:here"


def worker_log(worker_id: str) -> str:
    """Last log lines of a worker."""
    return f"helio:worker:{worker_id}:log"


def foreign_worker(address: str) -> str:
    """Record of a foreign worker."""
    return f"helio:foreign:{address}"


def job(job_id: str) -> str:
    """Request and state of a job."""
    return f"helio:job:{job_id}"


def quarantined(job_id: str) -> str:
    """Evidence about a job that was set aside."""
    return f"helio:quarantine:{job_id}"


def events(job_id: str) -> str:
    """Event log of a job."""
    return f"helio:job:{job_id}:events"


def drawings(job_id: str) -> str:
    """SHA-256 of the pictures that a job's answer asked for, by their place in it."""
    return f"helio:job:{job_id}:drawn"


def drawing_lock(job_id: str, place: int) -> str:
    """That somebody has a picture of a job's answer made."""
    return f"helio:lock:drawing:{job_id}:{place}"


def voted(left: str, right: str) -> str:
    """That two jobs have been compared, whichever of them stood on the left."""
    return "helio:voted:" + ":".join(sorted((left, right)))


def live(job_id: str) -> str:
    """Pub/sub channel on which a job's events appear as they happen."""
    return f"helio:job:{job_id}:live"


def readers(job_id: str) -> str:
    """Who reads a job, each until its lease ends (Unix seconds of Redis's clock)."""
    return f"helio:job:{job_id}:readers"


def idempotency(digest: str) -> str:
    """Job that an `Idempotency-Key` started, by the SHA-256 of the key, and its body's digest."""
    return f"helio:idempotency:{digest}"


def reader(reader_id: str) -> str:
    """Channel on which nothing is said; `PUBSUB CHANNELS helio:reader:*` counts the readers."""
    return f"helio:reader:{reader_id}"


def chat(chat_id: str) -> str:
    """Record of a chat, and what its owner's list shows of it."""
    return f"helio:chat:{chat_id}"


def chats(owner: str) -> str:
    """Ids of an owner's chats by their last change (Unix seconds)."""
    return f"helio:chats:{owner}"


def battle(battle_id: str) -> str:
    """Record of a battle, and what its owner's list shows of it."""
    return f"helio:battle:{battle_id}"


def battles(owner: str) -> str:
    """Ids of an owner's battles by their last change (Unix seconds)."""
    return f"helio:battles:{owner}"


def share(token: str) -> str:
    """Id of the chat that a link shows."""
    return f"helio:share:{token}"


def image(sha256: str) -> str:
    """Uploaded bytes of a picture."""
    return f"helio:image:{sha256}"


def coming(model: str) -> str:
    """Requests that are about to be enqueued, each until when it counts (Unix seconds of Redis)."""
    return f"helio:coming:{model}"


def history(model: str) -> str:
    """Samples of the last hour of a model."""
    return f"helio:history:{model}"


def count(count_id: str) -> str:
    """Number of tokens of a text, for whoever asked."""
    return f"helio:count:{count_id}"


def count_text(count_id: str) -> str:
    """Text whose tokens are to be counted."""
    return f"helio:count:{count_id}:text"
