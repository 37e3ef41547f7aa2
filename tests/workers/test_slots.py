"""Who gets which row, and how many tokens there is room for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from broker.errors import ConfigurationError
from tests.workers.reference import generate, ids, load, request, run
from workers.detokenize import Detokenizer
from workers.engines import memory
from workers.engines.base import EngineOptions
from workers.engines.slots import Slots
from workers.scheduler import Scheduler
from workers.sequence import Sequence

CPU = torch.device("cpu")


def sequence(prompt: range, max_tokens: int = 10) -> Sequence:
    """A sequence with these ids."""
    sampling = request("x", "y").sampling
    detokenizer = Detokenizer(lambda ids: "", (), 0)
    return Sequence("x", tuple(prompt), sampling, max_tokens, frozenset(), detokenizer)


def take(slots: Slots, prompt: range, **options: int) -> tuple[int, int, int, tuple[int, ...]]:
    """Seat a sequence with these ids; return slot, source, shared, dropped."""
    seat = slots.take(sequence(prompt, **options), np.array(prompt))
    assert seat is not None
    return seat.slot, seat.source if seat.shared else seat.slot, seat.shared, seat.dropped


def test_a_longer_prompt_takes_over_the_row_that_holds_its_beginning() -> None:
    slots = Slots(3, 1000)
    assert take(slots, range(100)) == (0, 0, 0, ())
    slots.leave(0, np.arange(90))
    assert take(slots, range(120)) == (0, 0, 90, ())


def test_a_short_common_beginning_is_copied_and_the_row_kept() -> None:
    slots = Slots(3, 1000)
    take(slots, range(100))
    slots.leave(0, np.arange(90))
    other = range(20)
    assert take(slots, other)[:3] == (1, 0, 19)
    assert take(slots, range(90))[:3] == (0, 0, 89)


def test_the_last_position_is_always_left_to_compute() -> None:
    slots = Slots(1, 1000)
    take(slots, range(50))
    slots.leave(0, np.arange(60))
    assert take(slots, range(50))[2] == 49


def test_a_row_that_is_still_being_filled_shares_what_it_has() -> None:
    slots = Slots(2, 1000)
    first = sequence(range(50))
    slots.take(first, np.arange(50))
    first.cached = 30
    assert take(slots, range(50))[:3] == (1, 0, 30)


def test_no_more_tokens_are_promised_than_there_is_memory_for() -> None:
    slots = Slots(4, 100)
    assert take(slots, range(30), max_tokens=20)[0] == 0
    assert take(slots, range(100, 130), max_tokens=10)[0] == 1
    assert slots.take(sequence(range(5), max_tokens=6), np.arange(5)) is None
    slots.leave(0, np.arange(35))
    # The row that was left holds 50 positions; 40 are promised, 40 more asked for: it has to go.
    assert take(slots, range(200, 220), max_tokens=20)[::3] == (2, (0,))


def test_a_row_that_is_too_large_for_its_next_owner_is_given_back_first() -> None:
    slots = Slots(2, 100)
    take(slots, range(80))
    take(slots, range(200, 205), max_tokens=5)
    slots.leave(0, np.arange(80))
    # 90 positions are held in the row, 10 promised beside it, 15 asked for.
    assert take(slots, range(300, 310), max_tokens=5) == (0, 0, 0, ())
    slots.leave(0, np.arange(300, 310))
    slots.leave(1, np.arange(200, 205))
    assert take(slots, range(400, 410), max_tokens=80) == (0, 0, 0, ())
    assert take(slots, range(200, 205), max_tokens=5)[0] == 1


def test_what_is_shared_goes_last() -> None:
    slots = Slots(3, 100)
    take(slots, range(40))
    take(slots, range(200, 230))
    slots.leave(0, np.arange(40))
    slots.leave(1, np.arange(200, 230))
    # 50 and 40 are held: the older one is shared, so that the younger one goes.
    assert take(slots, range(20), max_tokens=30) == (2, 0, 19, (1,))
    slots.leave(2, np.arange(20))
    assert take(slots, range(500, 510), max_tokens=35) == (1, 1, 0, (0,))
    # 50 are held, 45 promised, and 50 asked for that begin as what is held: it goes all the same.
    assert take(slots, range(10), max_tokens=40) == (0, 0, 0, (2,))


def test_requests_wait_for_memory_and_are_answered_rightly(llama: Path) -> None:
    engine = load(llama, slots=3, context_length=64)
    engine._slots = Slots(3, 100)
    scheduler, expected = Scheduler(engine), {}
    for number in range(5):
        each = engine.prepare(request(str(number), f"The {number} foxes", max_tokens=20), {})
        expected[str(number)] = generate(llama, each)
        scheduler.add(each)
    for _ in range(8):
        scheduler.step()
    assert scheduler.running == 2
    assert scheduler.waiting == 3
    engine = load(llama, slots=3, context_length=64)
    engine._slots = Slots(3, 100)
    scheduler = Scheduler(engine)
    for number in range(5):
        scheduler.add(
            engine.prepare(request(str(number), f"The {number} foxes", max_tokens=20), {})
        )
    assert {key: ids(value) for key, value in run(scheduler).items()} == expected


def test_the_cache_is_sized_by_the_memory_that_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda device: 2_000_000)
    options = EngineOptions("x", slots=16)
    room = memory.measure(options, longest=8192, token_bytes={CPU: 1000})
    assert (room.context_length, room.tokens) == (1000, 1000)
    room = memory.measure(options, longest=50, token_bytes={CPU: 1000})
    assert (room.context_length, room.tokens) == (50, 800)
    assert "800 tokens" in str(room)
    with pytest.raises(ConfigurationError, match="16 slots of 1500 tokens do not fit"):
        memory.measure(EngineOptions("x", context_length=1500), 8192, {CPU: 1000})
    with pytest.raises(ConfigurationError, match="2048 at most"):
        memory.measure(EngineOptions("x", context_length=4096), 2048, {CPU: 1000})


def test_running_out_of_memory_ends_one_request_with_a_clear_error(llama: Path) -> None:
    engine = load(llama, chunk_tokens=100)
    good = engine.prepare(request("good", "The quick brown fox", max_tokens=9), {})
    bad = engine.prepare(request("bad", "zebra " * 20, max_tokens=9), {})
    expected = generate(llama, good)

    def exhaust(module: torch.nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        if inputs[0].shape[1] > len(good.prompt_ids) + 5:
            torch.empty(1 << 50)

    hook = engine.runner._model.get_input_embeddings().register_forward_hook(exhaust)
    scheduler = Scheduler(engine)
    scheduler.add(good)
    scheduler.add(bad)
    outputs = run(scheduler)
    hook.remove()
    assert ids(outputs["good"]) == expected
    error = outputs["bad"][-1].error
    assert error is not None
    assert "ran out of memory" in error.message


def test_of_several_devices_the_one_with_least_room_sizes_the_cache(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, second = torch.device("cuda:0"), torch.device("cuda:1")
    free = {first: 1_000_000, second: 3_000_000}
    monkeypatch.setattr(memory, "free_bytes", free.__getitem__)
    room = memory.measure(EngineOptions("x", slots=2), 8192, {first: 400, second: 2000})
    assert (room.context_length, room.tokens, room.token_bytes) == (600, 1200, 2400)
    with pytest.raises(ConfigurationError, match=r"free on cuda:1: .* 2000 bytes a token"):
        memory.measure(
            EngineOptions("x", slots=2, context_length=601), 8192, {first: 400, second: 2000}
        )
