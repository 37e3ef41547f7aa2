"""What the queue and HTTP cost: the echo engine, so that no model hides it.

`python -m bench.overhead` runs, on one embedded Valkey and in one go:
(a) jobs/s from submit to the terminal event, beside a bare RQ SimpleWorker with an empty function;
(b) jobs/s over HTTP and the time to first token added at 1, 32 and 256 parallel streams.
Rounds alternate, and medians are printed, since machines are noisy.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import redis
from rq import Queue

from broker.connection import connect
from broker.messages import ChatMessage, GenerateRequest, SamplingParams, TextPart
from broker.queues import Submitter
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
    until(lambda: client.zcard(finished.key) - before >= count, "RQ finishes", 300)  # type: ignore
    return count / (time.perf_counter() - begin)


def broker_jobs(client: redis.Redis, submitter: Submitter, count: int) -> float:
    """Jobs/s from the first submit to the last terminal event on its channel."""
    ended = threading.Semaphore(0)
    pubsub = client.pubsub(ignore_subscribe_messages=True)
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


BODY = {"model": "echo", "messages": [{"role": "user", "content": "a b c d"}], "stream": True}


def http_stream(address: str, clients: httpx.Client) -> tuple[float, float]:
    """One streamed answer: seconds to the first token and to the end."""
    begin = time.perf_counter()
    first = 0.0
    with clients.stream("POST", f"{address}/v1/chat/completions", json=BODY) as answer:
        for line in answer.iter_lines():
            if not first and '"content":"' in line and '"content":""' not in line:
                first = time.perf_counter() - begin
            if line == "data: [DONE]":
                break
    assert first, "no token arrived"
    return first, time.perf_counter() - begin


def http_jobs(address: str, parallel: int, count: int) -> dict[str, float]:
    """Jobs/s and time to first token (ms) with `parallel` streams open at any time."""
    limits = httpx.Limits(max_connections=parallel, max_keepalive_connections=parallel)
    with httpx.Client(limits=limits, timeout=60) as clients:
        http_stream(address, clients)
        begin = time.perf_counter()
        with ThreadPoolExecutor(parallel) as pool:
            times = list(pool.map(lambda _: http_stream(address, clients), range(count)))
        elapsed = time.perf_counter() - begin
    firsts = sorted(1000 * first for first, _ in times)
    return {
        "jobs_per_s": count / elapsed,
        "ttft_p50_ms": statistics.median(firsts),
        "ttft_p95_ms": firsts[int(0.95 * (len(firsts) - 1))],
    }


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
    address = stack.api()
    figures: dict[str, object] = {}
    print("streams   jobs/s   first token p50   p95 (ms)")
    for parallel in (1, 32, 256):
        runs = [http_jobs(address, parallel, max(100, 3 * parallel)) for _ in range(rounds)]
        row = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        figures[f"http_{parallel}"] = row
        print(
            f"{parallel:7d} {row['jobs_per_s']:8.0f} {row['ttft_p50_ms']:17.1f}"
            f" {row['ttft_p95_ms']:10.1f}"
        )
    return figures


if __name__ == "__main__":
    main()
