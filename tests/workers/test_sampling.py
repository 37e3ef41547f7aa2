"""Tokens come from the right distribution, the same way wherever a row stands in a batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.messages import SamplingParams
from workers.engines.base import Sampled
from workers.row import Row, uniform
from workers.sampling import edit, sample, weigh

LOGITS = torch.tensor([2.0, 1.0, 0.0, -1.0, 5.0])
VOCABULARY = 700
PROMPT = [3, 5, 5, 8, 600]
OUTPUT = [5, 9, 9, 9, 20, 3]


def row(
    prompt_ids: list[int] | None = None,
    output_ids: list[int] | None = None,
    position: int = 0,
    stop_ids: frozenset[int] = frozenset(),
    **wish: Any,
) -> Row:
    """A row of an answer that stands at a position, at temperature 1 unless told otherwise."""
    return Row(SamplingParams(**wish), prompt_ids or [], output_ids or [0] * position, stop_ids)


def draw(logits: torch.Tensor, **wish: Any) -> int:
    """Draw from one row."""
    return sample(logits[None], [row(**wish)])[0].token_id


def chances(logits: torch.Tensor, *rows: Row) -> torch.Tensor:
    """The distribution that tokens of `[rows, vocabulary]` logits are drawn from."""
    weights = weigh(edit(logits, rows), rows).double()
    return weights / weights.sum(dim=-1, keepdim=True)


def noise(rows: int, seed: int = 1, spread: float = 3.0, width: int = VOCABULARY) -> torch.Tensor:
    return torch.randn((rows, width), generator=torch.Generator().manual_seed(seed)) * spread


def reference(logits: torch.Tensor, params: SamplingParams, stop_ids: list[int]) -> torch.Tensor:
    """The same distribution by transformers' processors, in vLLM's order."""
    processors = transformers.LogitsProcessorList()
    if params.logit_bias:
        pairs = {(token,): bias for token, bias in params.logit_bias.items()}
        processors.append(transformers.SequenceBiasLogitsProcessor(pairs))
    if params.min_tokens:
        processors.append(
            transformers.MinNewTokensLengthLogitsProcessor(
                len(PROMPT), params.min_tokens, stop_ids, device="cpu"
            )
        )
    processors.append(transformers.RepetitionPenaltyLogitsProcessor(params.repetition_penalty))
    ids = torch.tensor([PROMPT + OUTPUT])
    scores = processors(ids, logits[None].clone())
    counts = torch.bincount(torch.tensor(OUTPUT), minlength=logits.shape[-1])
    scores = scores - counts * params.frequency_penalty - (counts > 0) * params.presence_penalty
    warpers = transformers.LogitsProcessorList()
    warpers.append(transformers.TemperatureLogitsWarper(params.temperature))
    if params.min_p:
        warpers.append(transformers.MinPLogitsWarper(params.min_p))
    if params.top_k:
        warpers.append(transformers.TopKLogitsWarper(params.top_k))
    if params.top_p < 1:
        warpers.append(transformers.TopPLogitsWarper(params.top_p))
    return warpers(ids, scores).softmax(dim=-1)[0].double()


WISHES: list[dict[str, Any]] = [
    {},
    {"temperature": 0.3},
    {"temperature": 1.9},
    {"top_k": 1},
    {"top_k": 7},
    {"top_k": 600},
    {"top_k": 10_000},
    {"top_p": 0.01},
    {"top_p": 0.5},
    {"top_p": 0.97, "temperature": 2.0},
    {"min_p": 0.02},
    {"min_p": 1.0},
    {"top_k": 40, "top_p": 0.8, "min_p": 0.001, "temperature": 1.4},
    {"top_k": 3, "top_p": 0.7},
    {"repetition_penalty": 1.3},
    {"repetition_penalty": 0.6},
    {"frequency_penalty": 1.5},
    {"presence_penalty": -2.0},
    {"frequency_penalty": -0.4, "presence_penalty": 0.9, "repetition_penalty": 1.1},
    {"logit_bias": {5: 4.0, 699: 9.0, 1: -100.0}},
    {"min_tokens": 7},
    {"min_tokens": 6},
    {
        "logit_bias": {5: 3.5, 77: 8.0},
        "min_tokens": 9,
        "repetition_penalty": 1.2,
        "frequency_penalty": 0.3,
        "presence_penalty": 0.2,
        "temperature": 0.8,
        "top_k": 50,
        "top_p": 0.9,
        "min_p": 0.003,
    },
]
STOPS = [20, 42]


def test_filtered_distributions_are_those_of_transformers() -> None:
    logits = noise(len(WISHES), seed=4)
    logits[:, 42] += 6
    rows = [row(PROMPT, OUTPUT, stop_ids=frozenset(STOPS), **wish) for wish in WISHES]
    found = chances(logits, *rows)
    for place, wish in enumerate(WISHES):
        expected = reference(logits[place], rows[place].params, STOPS)
        assert not found[place][expected == 0].any(), wish
        assert found[place][expected > 1e-9].all(), wish
        torch.testing.assert_close(found[place], expected, rtol=2e-5, atol=1e-9, msg=str(wish))


def test_every_wish_changes_the_distribution() -> None:
    logits = noise(1, seed=4)
    logits[:, 42] += 6
    plain = chances(logits, row())
    for wish in WISHES[1:]:
        changed = chances(logits, row(PROMPT, OUTPUT, stop_ids=frozenset(STOPS), **wish))
        unchanged = wish in ({"top_k": 10_000}, {"min_tokens": 6})
        assert torch.equal(changed, plain) == unchanged, wish


def test_temperature_zero_takes_the_most_likely_token() -> None:
    assert [draw(LOGITS, temperature=0.0, seed=seed) for seed in range(5)] == [4] * 5


def test_a_temperature_next_to_zero_does_so_too() -> None:
    for temperature in (1e-3, 1e-12, 1e-300):
        drawn = {draw(LOGITS.flip(0) * 40, temperature=temperature, seed=n) for n in range(50)}
        assert drawn == {0}


def test_penalties_bias_and_min_tokens_hold_for_greedy_answers() -> None:
    greedy = {"temperature": 0.0}
    assert draw(LOGITS, output_ids=[4], frequency_penalty=1.0, **greedy) == 4
    assert draw(LOGITS, output_ids=[4] * 4, frequency_penalty=1.0, **greedy) == 0
    assert draw(LOGITS, output_ids=[4], presence_penalty=2.0, **greedy) == 4
    assert draw(LOGITS - 2, prompt_ids=[4], repetition_penalty=1.9, **greedy) == 4
    assert draw(LOGITS - 3, prompt_ids=[4], presence_penalty=2.0, **greedy) == 4
    assert draw(LOGITS - 6, prompt_ids=[4], repetition_penalty=2.0, **greedy) == 4
    assert draw(LOGITS - 10, prompt_ids=[4], repetition_penalty=2.0, **greedy) == 0
    assert draw(LOGITS, logit_bias={3: 7.0}, **greedy) == 3
    assert draw(LOGITS, logit_bias={4: -100.0}, **greedy) == 0
    assert draw(LOGITS, stop_ids=frozenset({4, 9}), min_tokens=1, **greedy) == 0
    assert draw(LOGITS, stop_ids=frozenset({4}), min_tokens=1, position=1, **greedy) == 4


def test_a_rows_counts_grow_with_its_answer_and_equal_those_of_a_resumed_one() -> None:
    wish = {"repetition_penalty": 1.2, "frequency_penalty": 0.7, "seed": 3}
    output: list[int] = []
    growing = Row(SamplingParams(**wish), PROMPT, output)
    for position, logits in enumerate(noise(300, seed=8)):
        fresh = Row(SamplingParams(**wish), PROMPT, list(output))
        assert torch.equal(edit(logits[None], [growing]), edit(logits[None], [fresh]))
        (token,) = sample(logits[None], [growing])
        assert sample(logits[None], [fresh]) == [token]
        output.append(token.token_id if position % 3 else 11)


def test_draws_follow_the_probabilities() -> None:
    logits = torch.tensor([0.5, 0.3, 0.2]).log()
    drawn = [draw(logits, seed=3, position=position) for position in range(4000)]
    shares = [drawn.count(token) / len(drawn) for token in range(3)]
    assert shares == pytest.approx([0.5, 0.3, 0.2], abs=0.03)


def test_draws_of_many_seeds_follow_a_filtered_distribution() -> None:
    wish = {"top_k": 8, "top_p": 0.95, "temperature": 1.5, "presence_penalty": 1.0}
    logits = noise(1, seed=2)
    rows = [row(PROMPT, OUTPUT, seed=seed, **wish) for seed in range(1, 8001)]
    drawn = torch.tensor([each.token_id for each in sample(logits.expand(8000, -1), rows)])
    counts = torch.bincount(drawn, minlength=VOCABULARY).double()
    expected = reference(logits[0], rows[0].params, []) * 8000
    kept = expected > 0
    assert counts[~kept].sum() == 0
    # Pearson's statistic of at most 7 degrees of freedom: above 24.3 once in a thousand.
    assert ((counts - expected)[kept] ** 2 / expected[kept]).sum() < 24.3


@pytest.mark.parametrize(("point", "token"), [(0.0, 1), (1 - 2**-53, 3)])
def test_the_outermost_points_draw_tokens_that_can_come(
    monkeypatch: pytest.MonkeyPatch, point: float, token: int
) -> None:
    monkeypatch.setattr("workers.row.uniform", lambda seed, position: point)
    logits = torch.tensor([-torch.inf, 1.0, 0.0, 1.0, -torch.inf])
    assert draw(logits) == draw(logits, min_p=0.2) == token


def test_a_nucleus_as_wide_as_the_vocabulary_is_found_whole() -> None:
    drawn = {draw(torch.zeros(1000), top_p=0.9, position=position) for position in range(2000)}
    assert len(drawn) > 700


def test_equally_likely_tokens_stay_or_go_together() -> None:
    tied = torch.tensor([1.0, 3.0, 3.0, 3.0, 0.0])
    for wish in ({"top_k": 1}, {"top_k": 2}, {"top_p": 0.2}, {"min_p": 1.0}):
        assert chances(tied[None], row(**wish)).nonzero()[:, 1].tolist() == [1, 2, 3]
    assert draw(tied, temperature=0.0) == 1


rows_of_a_batch = st.lists(
    st.fixed_dictionaries(
        {"seed": st.integers(1, 2**63 - 1), "temperature": st.sampled_from([0.0, 0.6, 1.0, 1.7])},
        optional={
            "top_p": st.floats(0.01, 1.0),
            "top_k": st.integers(0, 800),
            "min_p": st.floats(0.0, 0.5),
            "repetition_penalty": st.floats(0.5, 2.0),
            "presence_penalty": st.floats(-2.0, 2.0),
            "frequency_penalty": st.floats(-2.0, 2.0),
            "logit_bias": st.dictionaries(st.integers(0, 600), st.floats(-100, 100), max_size=4),
            "logprobs": st.none() | st.integers(0, 20),
            "min_tokens": st.integers(0, 9),
        },
    ),
    min_size=2,
    max_size=9,
)


@settings(max_examples=100)
@given(
    wishes=rows_of_a_batch,
    noise_seed=st.integers(0, 2**32),
    width=st.sampled_from([601, 640, 1031]),
    half=st.booleans(),
    shuffled=st.randoms(use_true_random=False),
)
def test_a_row_gets_the_same_alone_and_in_any_batch(
    wishes: list[dict[str, Any]], noise_seed: int, width: int, half: bool, shuffled: Any
) -> None:
    logits = noise(len(wishes), noise_seed, width=width)
    logits = logits.bfloat16() if half else logits

    def made(place: int) -> Row:
        output = [(7 * place + n * n) % 600 for n in range(place)]
        return row(PROMPT[place % 3 :], output, stop_ids=frozenset(STOPS), **wishes[place])

    places = list(range(len(wishes)))
    alone = [sample(logits[place : place + 1], [made(place)])[0] for place in places]
    assert sample(logits, [made(place) for place in places]) == alone
    shuffled.shuffle(places)
    places = places[1:]
    mixed = sample(logits[places], [made(place) for place in places])
    assert mixed == [alone[place] for place in places]


def test_logits_stay_as_they_are() -> None:
    logits = noise(2)
    before = logits.clone()
    wish = {"top_p": 0.5, "logit_bias": {1: 9.0}, "repetition_penalty": 2.0, "logprobs": 2}
    sample(logits, [row(PROMPT, OUTPUT, **wish), row(temperature=0.5, top_k=5)])
    assert torch.equal(logits, before)


def test_seeds_and_positions_give_different_numbers() -> None:
    numbers = {uniform(seed, position) for seed in range(30) for position in range(30)}
    assert len(numbers) == 900
    assert all(0.0 <= number < 1.0 for number in numbers)
    assert uniform(2**63 - 1, 0) == uniform(2**63 - 1, 0)


def test_logprobs_are_the_models_own_whatever_is_drawn() -> None:
    logits = noise(1, seed=6)
    expected = logits.log_softmax(dim=-1)[0]
    best = expected.topk(5)
    for wish in ({}, {"temperature": 0.0}, {"temperature": 2.0, "repetition_penalty": 2.0}):
        (sampled,) = sample(logits, [row(PROMPT, OUTPUT, logprobs=5, seed=9, **wish)])
        assert sampled.logprob == pytest.approx(expected[sampled.token_id].item(), abs=1e-5)
        assert [token for token, _ in sampled.top] == best.indices.tolist()
        told = [logprob for _, logprob in sampled.top]
        assert told == pytest.approx(best.values.tolist(), abs=1e-5)


def test_logprobs_are_told_to_those_rows_only_that_asked() -> None:
    wishes: list[int | None] = [None, 0, 3, None, 20]
    rows = [row(temperature=0.0, logprobs=wish) for wish in wishes]
    sampled = sample(noise(5), rows)
    assert [each.logprob is None for each in sampled] == [True, False, False, True, False]
    assert [len(each.top) for each in sampled] == [0, 0, 3, 0, 20]
    assert sampled[4].top[0] == (sampled[4].token_id, sampled[4].logprob)


def test_equally_likely_tokens_are_told_in_the_order_of_their_ids() -> None:
    logits = torch.tensor([[-0.0, 0.0, -3.0, 2.0, 2.0, 0.0, -3.0]])
    (sampled,) = sample(logits, [row(temperature=0.0, logprobs=20)])
    assert [token for token, _ in sampled.top] == [3, 4, 0, 1, 5, 2, 6]


def test_a_token_that_cannot_come_has_openais_number() -> None:
    logits = torch.tensor([[1.0, -torch.inf, 0.0]])
    (sampled,) = sample(logits, [row(temperature=0.0, logprobs=3)])
    assert sampled.top[-1] == (1, -9999.0)
    assert isinstance(sampled, Sampled)
