"""Several models served under one name, by processes that were told so on their command line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest

from broker import registry
from broker.errors import NoLiveWorker
from broker.messages import SamplingParams
from frontend.service import Service
from tests.asking import answer, say
from tests.stack import Process, Stack, free_port, until

GROUP = {"HELIOGRAPH_GROUPS": "pair=steady,quick lost=nobody"}


@pytest.fixture(scope="module")
def workers(echo_stack: Stack) -> dict[str, Process]:
    """Two models of one group, of which one is four times as fast, with two slots each."""
    return {
        name: echo_stack.echo_worker(
            f"tokens_per_s={speed}", **{"model-name": name, "limit-model-concurrency": "2"}
        )
        for name, speed in (("steady", 50), ("quick", 200))
    }


@pytest.fixture
def service(echo_stack: Stack, workers: dict[str, Process]) -> Iterator[Service]:
    made = Service(echo_stack.settings(**GROUP))
    yield made
    made.close()


def ask_group(service: Service, text: str) -> str:
    """Ask the group; return the model that answered."""
    request = service.submit("pair", say(text), SamplingParams())
    assert answer(service, request)[0] == text
    return request.model


def test_the_group_is_listed_and_an_unserved_one_is_not(service: Service) -> None:
    names = [info.name for info in service.fleet.models()]
    assert names == ["echo", "pair", "quick", "steady"]
    (group,) = (info for info in service.fleet.models() if info.name == "pair")
    assert (group.workers, group.slots, group.images) == (2, 4, True)


def test_the_faster_model_gets_more_of_the_load(echo_stack: Stack, service: Service) -> None:
    words = " ".join(["word"] * 30)

    def measured() -> bool:
        for name in ("steady", "quick"):
            request = service.submit(name, say(words), SamplingParams())
            assert answer(service, request)[0] == words
        speeds = {info.model: info.peak_speed for info in registry.workers(echo_stack.redis)}
        return 0 < speeds["steady"] < speeds["quick"]

    until(measured, "both speeds are measured")
    with ThreadPoolExecutor(12) as pool:
        chosen = Counter(pool.map(lambda _: ask_group(service, words), range(60)))
    assert chosen["quick"] > chosen["steady"] > 0


def test_a_group_of_which_nothing_lives_says_what_to_start(service: Service) -> None:
    with pytest.raises(NoLiveWorker, match=r"group 'lost' is alive. Start one of: nobody\."):
        service.submit("lost", say("word"), SamplingParams())


def test_the_group_of_a_flag_is_served_like_a_model(
    echo_stack: Stack, workers: dict[str, Process]
) -> None:
    port = free_port()
    flags = ("--group", "both=steady,quick", "--dispatch-method", "lottery")
    api = echo_stack.start("api", "frontend", "api", *flags, HELIOGRAPH_API_PORT=str(port))
    until(lambda: "API listens" in api.output, "the API listens")
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none")
    assert "both" in [model.id for model in client.models.list()]
    chosen = set()
    for _ in range(20):
        done = client.chat.completions.create(
            model="both", messages=[{"role": "user", "content": "a word"}]
        )
        assert done.choices[0].message.content == "a word"
        chosen.add(done.model)
    assert chosen == {"steady", "quick"}


def test_a_wrong_group_stops_the_process_with_a_sentence(echo_stack: Stack) -> None:
    api = echo_stack.start("api", "frontend", "api", "--group", "fast")
    assert api.wait() == 1
    assert api.output.strip() == (
        "group 'fast': write it as name=model,model with at least one model."
    )
