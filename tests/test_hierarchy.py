"""Cells in a row: a request goes down through three of them, and so do pictures and faults."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import httpx
import openai
import pytest

from broker import registry
from broker.errors import NoLiveWorker
from broker.events import Delta, End, Event, Failed
from broker.messages import SamplingParams
from frontend import orphans
from frontend.service import Service
from tests.asking import answer, ask, deltas, running, say
from tests.frontend.clients import data_uri, image_message, official
from tests.pictures import scene
from tests.stack import Process, Stack, embedded_valkey, until

DEMO = "heliograph-demo"
SLOW = "tokens_per_s=20&tokens=400"

Join = Callable[[list["Cell"], str], None]
"""A way to let each cell but the last have the next one compute a model."""


@dataclass
class Cell:
    """One Redis with what runs on it."""

    stack: Stack
    address: str = ""


@pytest.fixture
def cells(tmp_path: Path) -> Iterator[list[Cell]]:
    """Three of them, with nothing but a Valkey each: top, middle and bottom."""
    folders = [tmp_path / name for name in ("top", "middle", "bottom")]
    with (
        embedded_valkey(folders[0]) as top,
        embedded_valkey(folders[1]) as middle,
        embedded_valkey(folders[2]) as bottom,
    ):
        made = [Cell(Stack(url, f)) for url, f in zip((top, middle, bottom), folders, strict=True)]
        yield made
        for cell in made:
            cell.stack.stop()


def connect(cells: list[Cell], model: str) -> None:
    """Let each cell but the last have the next one compute."""
    for above, below in reversed(list(pairwise(cells))):
        below.address = below.stack.api()
        above.stack.worker(*remote_flags(model, below.address))


def register(cells: list[Cell], model: str) -> None:
    """Register each cell but the first as a worker of the one above."""
    for cell in cells:
        cell.address = cell.stack.api()
    for above, below in pairwise(cells):
        above.stack.start("bridge", "workers", "bridge")
        body = {"worker_name": below.address, "check_heart_beat": False, "worker_status": None}
        reply = httpx.post(f"{above.address}/register_worker", json=body)
        assert (reply.status_code, reply.json()) == (200, None)
    until(lambda: models(cells[0]) == [model], "the model came up to the top", 60)


def remote_flags(model: str, upstream: str) -> tuple[str, ...]:
    return ("--engine", "remote", "--model-name", model, "--upstream", upstream)


@pytest.fixture
def service(cells: list[Cell]) -> Iterator[Service]:
    made = Service(cells[0].stack.settings())
    yield made
    made.close()


def test_a_picture_is_seen_three_levels_down(cells: list[Cell], service: Service) -> None:
    cells[2].stack.worker()
    connect(cells, "heliograph-demo")
    picture = service.pictures.add(
        scene(("circle", "red", (60, 60)), ("square", "blue", (160, 160)))
    )
    greedy = SamplingParams(temperature=0.0)
    asked = service.submit("heliograph-demo", say("What colour is the square?", picture), greedy)
    text, end = answer(service, asked)
    assert "blue" in text.lower()
    assert end.usage.prompt_tokens > 90


def test_cells_that_registered_as_workers_serve_the_parents_users(cells: list[Cell]) -> None:
    """As the originals' controllers do: without heartbeats, and without a status."""
    cells[2].stack.worker()
    register(cells, DEMO)
    address = httpx.post(f"{cells[0].address}/get_worker_address", json={"model": DEMO}).json()
    assert address == {"address": cells[0].address}
    picture = data_uri(scene(("circle", "red", (60, 60)), ("square", "blue", (160, 160))))
    body = image_message(picture, text="What colour is the square?")
    done = official(cells[0].address).chat.completions.create(
        model=DEMO,
        messages=body,
        temperature=0,  # type: ignore[arg-type]
    )
    assert "blue" in (done.choices[0].message.content or "").lower()
    # In a circle now: the bottom is told to have the top compute as well.
    cells[2].stack.worker(*remote_flags(DEMO, cells[0].address))
    kill(cells[2].stack.processes[0])
    until(lambda: len(registry.workers(cells[2].stack.redis)) == 1, "only the circle is left")
    with pytest.raises(openai.APIStatusError) as raised:
        official(cells[0].address).chat.completions.create(model=DEMO, messages=body)  # type: ignore[arg-type]
    assert (raised.value.status_code, raised.value.code) == (508, "loop_detected")


def models(cell: Cell) -> list[str]:
    names: list[str] = httpx.post(f"{cell.address}/list_models").json()["models"]
    return names


@pytest.mark.parametrize("join", [connect, register])
def test_a_cancelled_request_ends_on_all_levels(
    cells: list[Cell], service: Service, join: Join
) -> None:
    cells[2].stack.echo_worker(SLOW)
    join(cells, "echo")
    asked = ask(service, "word")
    deltas(service, asked, 3)
    for cell in cells:
        until(lambda cell=cell: running(cell.stack) == 1, "the request runs")  # type: ignore[misc]
    service.jobs.cancel(asked.id)
    assert answer(service, asked)[1].finish_reason == "cancelled"
    for cell in cells:
        until(lambda cell=cell: running(cell.stack) == 0, "its slot is free")  # type: ignore[misc]


def kill(process: Process) -> None:
    process.signal(signal.SIGKILL)
    process.wait()


@pytest.mark.parametrize(
    ("join", "reason"),
    [(connect, "does not answer (ConnectError)"), (register, "cannot be connected to")],
)
def test_the_death_of_the_middle_cell_is_one_clear_error(
    cells: list[Cell],
    service: Service,
    monkeypatch: pytest.MonkeyPatch,
    join: Join,
    reason: str,
) -> None:
    monkeypatch.setattr(orphans, "ORPHAN_S", 5.0)
    cells[2].stack.echo_worker(SLOW)
    join(cells, "echo")
    asked = ask(service, "word")
    deltas(service, asked, 3)
    for process in cells[1].stack.processes:
        kill(process)
    began_s = time.monotonic()
    events: list[Event] = []
    with pytest.raises(NoLiveWorker) as raised:
        events.extend(event for event in service.follow(asked) if event is not None)
    assert time.monotonic() - began_s < 25
    assert raised.value.message == (
        f"All workers of model 'echo' are gone, so job {asked.id} was given up. "
        "Try again when one is back."
    )
    assert not any(isinstance(event, Failed | End) for event in events)
    assert any(isinstance(event, Delta) for event in events)
    until(lambda: running(cells[2].stack) == 0, "the bottom's slot is free")
    (down,) = registry.down(cells[0].stack.redis)
    assert down.reason.endswith(reason)
    with pytest.raises(NoLiveWorker):
        ask(service, "another")
