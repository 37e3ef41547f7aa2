"""The controller's routes, asked as LLaVA's, InternVL's and FastChat's programs ask them."""

from __future__ import annotations

import http.client
from contextlib import closing

import pytest

from broker import foreign, keys
from broker.foreign import ForeignWorker
from broker.registry import workers
from frontend.model_order import place
from tests.frontend.originals import connect, post, registration
from tests.stack import Stack, until

WORKER = "http://localhost:21002"
GROUPS = {"HELIOGRAPH_GROUPS": "pair=echo,second"}


@pytest.fixture(scope="module")
def address(echo_stack: Stack) -> str:
    return echo_stack.api()


@pytest.fixture
def registered(echo_stack: Stack) -> list[ForeignWorker]:
    """Foreign workers, of which there are none at first."""
    for worker in foreign.workers(echo_stack.redis):
        foreign.withdraw(echo_stack.redis, worker.address)
    return []


def records(stack: Stack) -> list[ForeignWorker]:
    return foreign.workers(stack.redis)


def test_models_come_in_internvls_order() -> None:
    names = [
        "Mini-InternVL-Chat-2B-V1-5", "InternVL2-8B", "InternVL2_5-78B", "InternVL2-40B",
        "InternVL2-Pro", "InternVL2-1B", "InternVL2-Llama3-76B", "InternVL2-26B",
    ]  # fmt: skip
    assert sorted(names, key=place) == [
        "InternVL2-Pro", "InternVL2-40B", "InternVL2-26B", "InternVL2-8B", "InternVL2-1B",
        "InternVL2-Llama3-76B", "InternVL2_5-78B", "Mini-InternVL-Chat-2B-V1-5",
    ]  # fmt: skip


def test_a_frontend_finds_models_and_where_to_ask_them(address: str) -> None:
    refreshed = post(address, "/refresh_all_workers")
    assert (refreshed.status, refreshed.body) == (200, b"null")
    assert post(address, "/list_models").json == {"models": ["echo"]}
    assert post(address, "/list_multimodal_models").json == {"models": ["echo"]}
    assert post(address, "/list_language_models").json == {"models": []}
    assert post(address, "/get_worker_address", {"model": "echo"}).json == {"address": address}
    assert post(address, "/get_worker_address", {"model": "other"}).json == {"address": ""}
    assert post(address, "/get_worker_address", {"model": ""}).json == {"address": ""}


def test_the_routes_without_a_body_take_any(address: str) -> None:
    for route in ("/refresh_all_workers", "/list_models", "/worker_get_status"):
        typed = post(address, route, None, **{"Content-Type": "application/octet-stream"})
        assert (typed.status, post(address, route, {"x": 1}).status) == (200, 200)


def test_the_connection_can_be_tested(address: str) -> None:
    with closing(connect(address)) as connection:
        connection.request("GET", "/test_connection")
        assert connection.getresponse().read() == b'"success"'


def test_the_address_is_the_one_that_was_set(echo_stack: Stack) -> None:
    api = echo_stack.api(HELIOGRAPH_PUBLIC_URL="https://cell.example/")
    told = post(api, "/get_worker_address", {"model": "echo"}).json
    assert told == {"address": "https://cell.example"}


def test_the_status_is_that_of_one_worker_with_all_models(echo_stack: Stack) -> None:
    flags = {"model-name": "second", "limit-model-concurrency": "3"}
    second = echo_stack.echo_worker("tokens_per_s=100", **flags)
    api = echo_stack.api(**GROUPS)
    status = post(api, "/worker_get_status")
    assert status.json["model_names"] == ["echo", "pair", "second"]
    assert status.json["queue_length"] == 0
    assert status.json["speed"] >= 1
    assert status.headers["X-Heliograph-Slots"] == str(256 + 3)
    cell = echo_stack.redis.get(keys.CELL)
    assert isinstance(cell, bytes)
    assert status.headers["X-Heliograph-Cell"] == cell.decode()
    second.stop()
    until(lambda: post(api, "/list_models").json == {"models": ["echo", "pair"]}, "it is gone")


def test_a_model_that_is_still_loading_is_not_listed(stack: Stack) -> None:
    stack.worker("--model-path", "demo", wait=False)
    api = stack.api()
    until(lambda: [w for w in workers(stack.redis) if w.state == "loading"], "the worker loads")
    listed = post(api, "/list_models").json["models"]
    told = post(api, "/worker_get_status").json
    assert listed == [] and told == {"model_names": [], "speed": 1, "queue_length": 0}


def test_a_llava_worker_registers_and_lives_by_its_heartbeats(
    echo_stack: Stack, address: str, registered: list[ForeignWorker]
) -> None:
    beat = {"worker_name": WORKER, "queue_length": 3}
    assert post(address, "/receive_heart_beat", beat).json == {"exist": False}
    answer = post(address, "/register_worker", registration(WORKER, "llava-v1.5-7b"))
    assert (answer.status, answer.body) == (200, b"null")
    (worker,) = records(echo_stack)
    assert (worker.address, worker.models) == (WORKER, ("llava-v1.5-7b",))
    assert (worker.queue_length, worker.heartbeats, worker.fastchat) == (0, True, False)
    assert echo_stack.redis.ttl(keys.foreign_worker(WORKER)) in (34, 35)
    assert post(address, "/receive_heart_beat", beat).json == {"exist": True}
    assert records(echo_stack)[0].queue_length == 3


def test_a_fastchat_worker_is_known_by_its_form(
    echo_stack: Stack, address: str, registered: list[ForeignWorker]
) -> None:
    said = registration(WORKER, "vicuna-7b", "gpt", multimodal=False)
    assert post(address, "/register_worker", said).status == 200
    (worker,) = records(echo_stack)
    assert (worker.models, worker.fastchat) == (("vicuna-7b", "gpt"), True)
    assert echo_stack.redis.ttl(keys.foreign_worker(WORKER)) in (99, 100)


def test_a_worker_without_heartbeats_stays_until_it_is_withdrawn(
    echo_stack: Stack, address: str, registered: list[ForeignWorker]
) -> None:
    said = {"worker_name": WORKER, "check_heart_beat": False, "worker_status": None}
    assert post(address, "/register_worker", said).body == b"null"
    (worker,) = records(echo_stack)
    assert (worker.models, worker.heartbeats) == ((), False)
    assert echo_stack.redis.ttl(keys.foreign_worker(WORKER)) == -1
    assert post(address, "/withdraw_worker", {"worker_name": WORKER}).json == {"exist": True}
    assert records(echo_stack) == []
    assert post(address, "/withdraw_worker", {"worker_name": WORKER}).json == {"exist": False}


def test_who_registers_again_is_what_it_said_last(
    echo_stack: Stack, address: str, registered: list[ForeignWorker]
) -> None:
    first = registration(WORKER, "one", "two", check_heart_beat=False)
    busy = {"model_names": ["two", "two"], "speed": 1, "queue_length": 4}
    second = registration(WORKER, worker_status=busy, multimodal=True)
    third = registration(WORKER, "one")
    for said, models, queue_length, fastchat, ttls in (
        (first, ("one", "two"), 0, False, (-1,)),
        (second, ("two",), 4, True, (99, 100)),
        (third, ("one",), 0, False, (34, 35)),
        (first, ("one", "two"), 0, False, (-1,)),
    ):
        assert post(address, "/register_worker", said).status == 200
        (worker,) = records(echo_stack)
        assert (worker.models, worker.queue_length) == (models, queue_length)
        assert worker.fastchat == fastchat
        assert echo_stack.redis.ttl(keys.foreign_worker(WORKER)) in ttls


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"worker_name": 5}, "worker_name"),
        ({"worker_name": "h" * 257}, "worker_name"),
        ({"check_heart_beat": "yes"}, "check_heart_beat"),
        ({"worker_status": {"speed": 1, "queue_length": 0}}, "worker_status.model_names"),
        ({"worker_status": {"model_names": ["m"] * 65}}, "worker_status.model_names"),
        ({"worker_status": {"model_names": ["m" * 257]}}, "worker_status.model_names.0"),
        ({"worker_status": {"model_names": ["m\n"]}}, "worker_status.model_names.0"),
        ({"worker_status": {"model_names": [], "speed": 1e999}}, "worker_status.speed"),
        ({"worker_status": {"model_names": [], "queue_length": -1}}, "worker_status.queue_length"),
    ],
)
def test_what_cannot_be_kept_is_refused_by_name(
    echo_stack: Stack,
    address: str,
    registered: list[ForeignWorker],
    change: dict[str, object],
    param: str,
) -> None:
    refused = post(address, "/register_worker", registration(WORKER, "m") | change)
    assert (refused.status, refused.json["error"]["param"]) == (400, param)
    assert refused.json["error"]["message"].startswith(param)
    assert records(echo_stack) == registered


def test_a_registration_of_a_megabyte_is_not_read(address: str) -> None:
    try:
        refused = post(address, "/register_worker", registration("x" * 2**20, "m"))
    except (ConnectionError, http.client.HTTPException):
        pytest.fail("the refusal did not arrive")
    assert (refused.status, refused.json["error"]["code"]) == (413, "request_too_large")
