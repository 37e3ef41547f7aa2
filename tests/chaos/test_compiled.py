"""Workers of a compiled model that die in the middle of answers: others go on exactly.

Compiled, a model computes a token alike in a prompt, an answer, alone and beside others.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.messages import SamplingParams
from frontend.service import Service
from tests.asking import say
from tests.chaos.cases import Case, Readers
from tests.chaos.test_workers import busiest, kill
from tests.stack import Process, Stack, own_stack, until

DEMO = "heliograph-demo"
SAMPLING = SamplingParams(seed=11, max_tokens=400, min_tokens=400, ignore_eos=True)

pytestmark = pytest.mark.timeout(3600)


@pytest.fixture(scope="module")
def model_stack(tmp_path_factory: pytest.TempPathFactory, kept: Path) -> Iterator[Stack]:
    """A Valkey whose workers keep their compiled code in one place."""
    with own_stack(tmp_path_factory.mktemp("model")) as made:
        made.env["HELIOGRAPH_DATA_DIR"] = str(kept)
        yield made


def two_workers(stack: Stack) -> list[Process]:
    """Those that live, and new ones for those that do not."""
    workers = [each for each in stack.processes if each.status is None]
    workers += [stack.worker("--compile", "now", wait=False) for _ in range(2 - len(workers))]
    for each in workers:
        until(lambda each=each: stack.info(each), f"worker is ready\n{each.output}", 300)  # type: ignore[misc]
    return workers


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_models_answer_is_the_undisturbed_one(
    model_stack: Stack, case: Case, runs: int, temperature: float
) -> None:
    """Greedy and seeded."""
    sampling = SAMPLING.model_copy(update={"temperature": temperature})
    dice = random.Random(5)
    service = Service(model_stack.settings())

    def ask() -> Readers:
        return Readers(service, [service.submit(DEMO, say("Hello"), sampling)])

    two_workers(model_stack)
    alone = ask().finish()[0].text
    for _ in range(runs):
        workers = two_workers(model_stack)
        readers = ask()
        readers.until_tokens(dice.randrange(1, 200))
        struck_s = time.monotonic()
        kill(busiest(model_stack, workers, readers.workers))
        case.note(readers.finish(), alone, struck_s)
    service.close()
    assert (case.exact, case.duplicated, case.lost) == (case.answers, 0, 0), case.line()
    assert case.moved == runs, case.line()
