"""Workers that run out of memory: they fail one request by a clear error, or end as a whole."""

from __future__ import annotations

import io
import resource
import signal
import time

import psutil
import pytest
from PIL import Image

from broker import quarantine
from broker.messages import GenerateRequest, SamplingParams
from broker.supervisor import BROKEN
from frontend.service import Service
from tests.asking import answer, ask, say
from tests.chaos.cases import Case, Readers
from tests.chaos.cursed import EXPECTED, NOTICED_S, OPTIONS, THREADS, TOKENS, out_of_memory, start
from tests.chaos.test_deaths import STREAMS, check
from tests.stack import Process, Stack
from tests.workers.test_broken import claims
from tests.workers.test_quarantine import failure

SLOW = f"tokens_per_s=10&tokens={TOKENS}"
"""So slow that no answer ends while the worker that is to take over starts."""
PICTURE_SIDE = 4900
"""Takes 72 MB when it is decoded."""

pytestmark = pytest.mark.timeout(3600)


def limit(process: Process, more_bytes: int) -> None:
    """Have the system refuse a process more memory than so much."""
    most = psutil.Process(process.pid).memory_info().vms + more_bytes
    resource.prlimit(process.pid, resource.RLIMIT_AS, (most, most))


def picture(side: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (side, side), "red").save(file, "PNG")
    return file.getvalue()


def look(service: Service, data: bytes) -> GenerateRequest:
    return service.submit("echo", say("look", service.pictures.add(data)), SamplingParams())


def test_a_worker_without_memory_for_a_picture(
    stack: Stack, service: Service, case: Case, runs: int
) -> None:
    """It fails what needs the memory, by a clear error, and goes on with all else."""
    tight = stack.echo_worker(OPTIONS)
    limit(tight, 48 * 2**20)
    for _ in range(runs):
        readers = Readers(service, [ask(service, "word") for _ in range(STREAMS)])
        readers.until_tokens(10)
        began_s = time.monotonic()
        error = failure(service, look(service, picture(PICTURE_SIDE))).error
        case.errors_s.append(time.monotonic() - began_s)
        assert (error.status, error.code) == (500, "worker_failed")
        case.note(readers.finish(), EXPECTED, began_s)
        check(stack, case)
    assert case.moved == 0 and tight.status is None
    assert quarantine.read_all(stack.redis) == []


def test_a_worker_without_memory_for_a_thread(
    stack: Stack, service: Service, case: Case, runs: int
) -> None:
    """It cannot go on, and says so: others take over, what it could not do for itself included."""
    for _ in range(runs):
        tight = stack.echo_worker(OPTIONS)
        readers = Readers(service, [ask(service, "word") for _ in range(STREAMS)])
        readers.until_tokens(10)
        limit(tight, 0)
        struck_s = time.monotonic()
        asked = look(service, picture(32))
        assert tight.wait() == BROKEN
        healthy = stack.echo_worker(OPTIONS)
        case.note(readers.finish(), EXPECTED, struck_s)
        assert len(claims(stack, asked)) == 2
        assert answer(service, asked)[0].startswith("[image ")
        check(stack, case)
        healthy.stop()
    assert case.moved == case.answers, case.line()
    assert stack.redis.ping() and quarantine.read_all(stack.redis) == []


@pytest.mark.parametrize("thread", THREADS)
def test_a_worker_one_of_whose_threads_has_no_memory(
    stack: Stack, service: Service, case: Case, runs: int, thread: str
) -> None:
    """It would tell nothing, or live unseen, with all its jobs: it ends instead."""
    for _ in range(runs):
        (tight,) = start(stack, out_of_memory(*THREADS[thread]), options=SLOW)
        readers = Readers(service, [ask(service, "word") for _ in range(STREAMS)])
        readers.until_tokens(10)
        healthy = stack.echo_worker(OPTIONS)
        tight.signal(signal.SIGUSR1)
        struck_s = time.monotonic()
        case.note(readers.finish(), EXPECTED, struck_s)
        assert tight.wait() == BROKEN
        assert "MemoryError" in tight.output
        check(stack, case)
        healthy.stop()
    assert case.moved == case.answers, case.line()
    assert case.worst_s <= NOTICED_S, case.line()
