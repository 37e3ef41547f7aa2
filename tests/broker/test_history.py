"""The last hour of a model, put together from what its workers have added."""

from __future__ import annotations

import pytest
import redis

from broker import history, keys
from broker.history import MAX_FIRST_TOKENS, PERIOD_S, SPAN_S, History, Recorder, Sample
from broker.queues import queue_key
from frontend.service import Service
from tests.asking import answer, ask
from tests.stack import Stack, until


def add(client: redis.Redis, model: str, *samples: Sample) -> None:
    pipe = client.pipeline()
    for sample in samples:
        history.add(pipe, model, sample)
    pipe.execute()


def add_at(client: redis.Redis, model: str, at_s: float, **fields: str) -> None:
    """A sample of a moment in the past or the future."""
    whole = {"w": "w1", "s": "5", "t": "0", "r": "0", "q": "0", "f": ""} | fields
    client.xadd(keys.history(model), whole, id=f"{int(1000 * at_s)}-*")  # type: ignore[arg-type]


def now_s(client: redis.Redis) -> float:
    seconds, _ = client.time()  # type: ignore[misc]
    return float(seconds)


def test_samples_of_all_workers_make_one_point(client: redis.Redis, model: str) -> None:
    client.rpush(queue_key(model), "a", "b", "c")
    add(
        client,
        model,
        Sample("w1", 5.0, 100, 4, (0.1, 0.2)),
        Sample("w2", 5.0, 50, 2, (0.9,)),
        Sample("w1", 5.0, 150, 6),
    )
    (point,) = History(client).points(model, count=1)
    assert (point.queued, point.running, point.tokens_per_s) == (3, 5.0 + 2.0, 300 / SPAN_S)
    assert (point.first_token_s, point.slow_first_token_s) == (0.2, 0.9)
    assert 0 < client.ttl(keys.history(model)) <= 2 * SPAN_S


def test_points_are_of_equal_length_and_stay_what_they_were(
    client: redis.Redis, model: str
) -> None:
    width_s = 30.0
    this_s = now_s(client) // width_s * width_s
    add_at(client, model, this_s - 2 * width_s, t="300", q="7", f="1.5")
    add_at(client, model, this_s - 1, t="60", q="2")
    seen = History(client)
    before = seen.points(model)
    assert len(before) == 120
    at = {point.at_s: point for point in before}
    first, second = at[this_s - width_s], at[this_s]
    assert (first.tokens_per_s, first.queued, first.first_token_s) == (10.0, 7, 1.5)
    assert (second.tokens_per_s, second.queued, second.first_token_s) == (2.0, 2, None)
    add(client, model, Sample("w1", 5.0, 1, 0))
    after = {point.at_s: point for point in seen.points(model)}
    assert all(after[at_s] == point for at_s, point in at.items() if point in (first, second))


def test_only_what_is_new_is_read_and_only_an_hour_is_kept(client: redis.Redis, model: str) -> None:
    long_ago_s = now_s(client) - SPAN_S - 60
    for place in range(200):  # more than Redis keeps in one piece of a stream
        add_at(client, model, long_ago_s + place / 1000, t="1000")
    seen = History(client)
    assert sum(point.tokens_per_s for point in seen.points(model)) == 0
    add(client, model, Sample("w1", 5.0, 30, 1))
    assert client.xlen(keys.history(model)) < 200
    assert sum(point.tokens_per_s for point in seen.points(model)) == pytest.approx(1.0)
    client.xdel(keys.history(model), client.xrevrange(keys.history(model), count=1)[0][0])  # type: ignore[index]
    assert sum(point.tokens_per_s for point in seen.points(model)) == pytest.approx(1.0)


def test_rubbish_in_the_stream_is_passed_over(client: redis.Redis, model: str) -> None:
    add_at(client, model, now_s(client) - 2, t="many")
    client.xadd(keys.history(model), {"x": "y"})
    add(client, model, Sample("w1", 5.0, 30, 1))
    assert sum(point.tokens_per_s for point in History(client).points(model)) == pytest.approx(1.0)


def test_a_model_that_nobody_serves_has_an_empty_hour(client: redis.Redis, model: str) -> None:
    points = History(client).points(model)
    assert {(p.queued, p.running, p.tokens_per_s, p.first_token_s) for p in points} == {
        (0, 0, 0.0, None)
    }


def test_a_recorder_tells_each_token_and_answer_once() -> None:
    clock = iter([0.0, 1.0, PERIOD_S, PERIOD_S + 1, 2.5 * PERIOD_S])
    recorder = Recorder("w1", lambda: next(clock))
    assert recorder.sample(5, 1) is None
    recorder.note(0.5)
    assert recorder.sample(40, 2) == Sample("w1", PERIOD_S, 40, 2, (0.5,))
    assert recorder.sample(60, 2) is None
    for place in range(2 * MAX_FIRST_TOKENS):
        recorder.note(float(place))
    newest = tuple(map(float, range(MAX_FIRST_TOKENS, 2 * MAX_FIRST_TOKENS)))
    assert recorder.sample(100, 0) == Sample("w1", 1.5 * PERIOD_S, 60, 0, newest)


def test_workers_add_what_they_do(stack: Stack) -> None:
    stack.echo_worker("tokens_per_s=50&tokens=20")
    service = Service(stack.settings())
    try:
        _, end = answer(service, ask(service, "word"))
    finally:
        service.close()
    seen = History(stack.redis)

    def told() -> bool:
        points = seen.points("echo")
        tokens = round(sum(point.tokens_per_s for point in points) * SPAN_S / len(points))
        firsts = [point.first_token_s for point in points if point.first_token_s is not None]
        return tokens == end.usage.completion_tokens and firsts == [end.timings.first_token_s]

    until(told, "a sample has all tokens and the time to the first", 15)
