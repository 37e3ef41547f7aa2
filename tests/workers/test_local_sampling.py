"""What a request wishes for its tokens holds through the local engine, in any batch and resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from broker.errors import InvalidRequest
from broker.events import TokenLogprob
from tests.workers.reference import generate, ids, load, own_logprobs, request, run, text
from workers.engines.local import LocalEngine
from workers.scheduler import Output, Scheduler

QUESTION = "The quick brown fox"
PENALTIES = {"repetition_penalty": 1.3, "presence_penalty": 0.5, "frequency_penalty": 0.4}
HOT = {"temperature": 1.3, "top_k": 60, "top_p": 0.95, "min_p": 0.001, "seed": 11}


@pytest.fixture(scope="module")
def engine(llama: Path) -> LocalEngine:
    return load(llama, slots=4)


def answer(
    engine: LocalEngine, told: tuple[int, ...] = (), beside: int = 0, **wish: Any
) -> list[Output]:
    """The outputs for one request, alone or with others that wish for something else."""
    scheduler = Scheduler(engine)
    for number in range(beside):
        other = request(f"other {number}", "Hello " * (number + 1), temperature=1.0, max_tokens=30)
        scheduler.add(engine.prepare(other, {}))
    asked = request("asked", QUESTION, **{"max_tokens": 25, **wish})
    scheduler.add(engine.prepare(asked, {}, told))
    return run(scheduler)["asked"]


def logprobs(outputs: list[Output]) -> list[TokenLogprob]:
    return [each for output in outputs for each in output.logprobs]


def test_greedy_answers_with_wishes_are_those_of_transformers(
    engine: LocalEngine, llama: Path
) -> None:
    sequence = engine.prepare(request("r", QUESTION, max_tokens=25), {})
    plain = generate(llama, sequence)
    bias = {plain[2]: -100.0, 7: 2.5}
    cases: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({"repetition_penalty": 1.8}, {"repetition_penalty": 1.8}),
        ({"repetition_penalty": 0.7}, {"repetition_penalty": 0.7}),
        ({"logit_bias": bias}, {"sequence_bias": {(i,): value for i, value in bias.items()}}),
        ({"stop_token_ids": (plain[4],)}, {"eos_token_id": plain[4]}),
        (
            {"stop_token_ids": (plain[4],), "min_tokens": 9},
            {"eos_token_id": plain[4], "min_new_tokens": 9},
        ),
    ]
    for wish, options in cases:
        expected = generate(llama, sequence, **options)
        assert expected != plain
        assert ids(answer(engine, beside=2, **wish)) == expected


def test_the_model_is_kept_from_ending_for_as_long_as_was_asked(engine: LocalEngine) -> None:
    (eos,) = {*engine.prepare(request("r", QUESTION), {}).eos_ids}
    wish = {"logit_bias": {eos: 100.0}, "max_tokens": 6}
    assert ids(answer(engine, **wish)) == [eos]
    late = ids(answer(engine, min_tokens=3, **wish))
    assert late[3:] == [eos] and eos not in late[:3]
    ignored = answer(engine, ignore_eos=True, **wish)
    assert (ids(ignored), text(ignored), ignored[-1].finish_reason) == ([eos] * 6, "", "length")


@pytest.mark.parametrize("wish", [PENALTIES, HOT, PENALTIES | HOT], ids=["cold", "hot", "both"])
def test_an_answer_is_the_same_alone_in_a_batch_and_resumed_elsewhere(
    engine: LocalEngine, llama: Path, wish: dict[str, Any]
) -> None:
    alone = answer(engine, logprobs=3, **wish)
    assert ids(alone) != ids(answer(engine))
    together = answer(engine, beside=3, logprobs=3, **wish)
    assert ids(together) == ids(alone)
    elsewhere = load(llama, slots=2)
    for cut in (1, 6, 20):
        rest = answer(elsewhere, told=tuple(ids(alone)[:cut]), beside=1, logprobs=3, **wish)
        assert ids(rest) == ids(alone)[cut:]
        pairs = zip(logprobs(rest), logprobs(alone)[cut:], strict=True)
        assert all(one.token == other.token for one, other in pairs)


def test_logprobs_are_the_models_own_for_each_token(engine: LocalEngine, llama: Path) -> None:
    prompt = list(engine.prepare(request("r", QUESTION), {}).prompt_ids)
    outputs = answer(engine, beside=2, logprobs=4, **PENALTIES, **HOT)
    told = logprobs(outputs)
    expected = own_logprobs(llama, prompt + ids(outputs))[len(prompt) - 1 :]
    assert len(told) == len(ids(outputs)) == 25
    for each, token_id, row in zip(told, ids(outputs), expected, strict=False):
        assert each.logprob == pytest.approx(row[token_id].item(), abs=1e-4)
        best = row.topk(4).values.tolist()
        assert [likely.logprob for likely in each.top] == pytest.approx(best, abs=1e-4)


def test_the_tokens_of_the_logprobs_spell_the_answer(engine: LocalEngine) -> None:
    outputs = answer(engine, logprobs=0)
    spelled = b"".join(each.token for each in logprobs(outputs))
    assert spelled.decode(errors="replace") == text(outputs)
    for output in outputs:
        assert len(output.logprobs) == len(output.token_ids)
    assert not logprobs(answer(engine))


def test_ids_beyond_the_vocabulary_are_refused_with_its_range(engine: LocalEngine) -> None:
    for param, value in (("logit_bias", {9999: 1.0}), ("stop_token_ids", (3, 9999))):
        with pytest.raises(InvalidRequest, match=r"from 0 to \d+; 9999 was sent") as refused:
            answer(engine, **{param: value})
        assert refused.value.param == param
