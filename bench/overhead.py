"""What the queue and HTTP cost: the echo engine, so that no model hides it.

`python -m bench.overhead` runs, on one embedded Valkey and in one go:
(a) jobs/s from submit to the terminal event, beside a bare RQ SimpleWorker with an empty function;
(b) the whole HTTP path: jobs/s, and the time to first token of a request that arrives while 0, 31
    or 255 other streams of 20 tokens/s are open; the engine itself answers at once.
Rounds alternate, and medians are printed, since machines are noisy.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.synchronize import Event
from pathlib import Path

import redis
from rq import Queue

from bench.streams import Load
from broker.connection import connect
from broker.messages import ChatMessage, GenerateRequest, SamplingParams, TextPart
from broker.submission import Submitter
from tests.stack import Stack, embedded_valkey, until

EMPTY_QUEUE = "bench-empty"


def nothing() -> None:
    """The empty function of the bare RQ worker."""


def rq_jobs(client: redis.Redis, count: int) -> float:
    """Jobs/s of RQ's SimpleWorker, from the first enqueue to the last finished job."""
    queue = Queue(EMPTY_QUEUE, connection=client)
    finished = queue.finished_job_registry
    before = client.zcard(finished.key)
    begin = time.perf_counter()
    for _ in range(count):
        queue.enqueue("bench.overhead.nothing", job_id=uuid.uuid4().hex)
    until(lambda: client.zcard(finished.key) - before >= count, "RQ finishes", 300)
    return count / (time.perf_counter() - begin)


def broker_jobs(client: redis.Redis, submitter: Submitter, count: int) -> float:
    """Jobs/s from the first submit to the last terminal event on its channel."""
    ended = threading.Semaphore(0)
    pubsub = client.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
    pubsub.psubscribe("helio:job:*:live")
    pubsub.get_message(timeout=1)

    def listen() -> None:
        left = count
        while left:
            message = pubsub.get_message(timeout=1)
            if message is not None and json.loads(message["data"])[1]["k"] == "end":
                left -= 1
                ended.release()

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    begin = time.perf_counter()
    for _ in range(count):
        submitter.submit(_request())
    for _ in range(count):
        assert ended.acquire(timeout=60), "a job did not end"
    elapsed = time.perf_counter() - begin
    pubsub.close()
    return count / elapsed


def _request() -> GenerateRequest:
    return GenerateRequest(
        id=uuid.uuid4().hex,
        model="echo",
        messages=(ChatMessage(role="user", content=(TextPart(text="ok"),)),),
        sampling=SamplingParams(max_tokens=1),
        created_s=time.time(),
    )


def chat(model: str, text: str) -> dict[str, object]:
    """Body of a streamed request."""
    return {"model": model, "messages": [{"role": "user", "content": text}], "stream": True}


def http_jobs(address: str, parallel: int, count: int) -> float:
    """Jobs/s over HTTP, `parallel` clients that ask again as soon as they are answered."""
    load = Load(address, chat("echo", "a b c d"), parallel)
    return count / load.run(lambda load: load.done >= count)


def first_token_ms(address: str, parallel: int, count: int) -> list[float]:
    """Times to first token of single requests while `parallel - 1` others stream 20 tokens/s."""
    with background(address, parallel - 1):
        probe = Load(address, chat("echo", "a b c d"), 1)
        probe.run(lambda load: load.done >= count)
    return [1000 * first for first in probe.firsts_s[:count]]


@contextmanager
def background(address: str, parallel: int) -> Iterator[None]:
    """Keep `parallel` streams of 20 tokens/s open in another process."""
    if not parallel:
        yield
        return
    context = multiprocessing.get_context("spawn")
    stop, flowing = context.Event(), context.Event()
    process = context.Process(target=stream_along, args=(address, parallel, stop, flowing))
    process.start()
    try:
        assert flowing.wait(60), "the background streams did not begin"
        yield
    finally:
        stop.set()
        process.join(10)


def stream_along(address: str, parallel: int, stop: Event, flowing: Event) -> None:
    """Body of the background process: tell when every stream flows, go on until told to stop."""

    def check(load: Load) -> bool:
        if len(load.firsts_s) >= parallel:
            flowing.set()
        return stop.is_set()

    Load(address, chat("echo-slow", "word"), parallel).run(check)


def median_of(rounds: int, *runs: Callable[[], float]) -> list[float]:
    """Medians of several measurements taken in turn: A B A B ..."""
    results = [[run() for run in runs] for _ in range(rounds)]
    return [statistics.median(column) for column in zip(*results, strict=True)]


def main() -> None:
    """Run both parts and print a table; `--json FILE` keeps the figures."""
    parser = argparse.ArgumentParser(prog="python -m bench.overhead", description=__doc__)
    parser.add_argument("--jobs", type=int, default=1500, help="jobs per round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=["broker", "http"])
    parser.add_argument("--json", type=Path)
    flags = parser.parse_args()
    figures: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as name, embedded_valkey(Path(name)) as url:
        stack = Stack(url, Path(name))
        try:
            client = connect(url)
            stack.echo_worker()
            if flags.only != "http":
                figures |= _measure_broker(stack, client, flags.jobs, flags.rounds)
            if flags.only != "broker":
                figures |= _measure_http(stack, flags.rounds)
        finally:
            stack.stop()
    if flags.json:
        flags.json.write_text(json.dumps(figures, indent=2))


def _measure_broker(stack: Stack, client: redis.Redis, jobs: int, rounds: int) -> dict[str, object]:
    root = str(Path(__file__).parent.parent)
    stack.start(
        "rq", "rq.cli", "worker", EMPTY_QUEUE, "--url", stack.url, "--path", root,
        "--worker-class", "rq.SimpleWorker", "--quiet",
    )  # fmt: skip
    submitter = Submitter(connect(stack.url, retry=False), max_queue_length=10**6)
    rq_jobs(client, 20)
    broker_jobs(client, submitter, 20)
    bare, ours = median_of(
        rounds, lambda: rq_jobs(client, jobs), lambda: broker_jobs(client, submitter, jobs)
    )
    print(f"bare RQ SimpleWorker   {bare:8.0f} jobs/s")
    print(f"Heliograph             {ours:8.0f} jobs/s   {ours / bare:.2f}x")
    return {"rq_jobs_per_s": bare, "jobs_per_s": ours, "ratio": ours / bare}


def _measure_http(stack: Stack, rounds: int) -> dict[str, object]:
    flags = {"model-name": "echo-slow", "limit-model-concurrency": "512"}
    stack.echo_worker("tokens_per_s=20&tokens=1000", **flags)
    address = stack.api()
    http_jobs(address, 8, 50)
    rate = statistics.median(http_jobs(address, 32, 500) for _ in range(rounds))
    print(f"HTTP, 32 clients       {rate:8.0f} jobs/s")
    figures: dict[str, object] = {"http_jobs_per_s": rate}
    print("streams   first token p50   p95 (ms)")
    for parallel in (1, 32, 256):
        firsts = sorted(t for _ in range(rounds) for t in first_token_ms(address, parallel, 60))
        p50, p95 = statistics.median(firsts), firsts[int(0.95 * (len(firsts) - 1))]
        figures[f"first_token_ms_{parallel}"] = {"p50": p50, "p95": p95}
        print(f"{parallel:7d} {p50:17.1f} {p95:10.1f}")
    return figures


if __name__ == "__main__":
    main()
