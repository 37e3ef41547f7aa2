"""The two waits that are measured, against the real API with the echo engine behind it."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from bench import latency
from bench.answers import Answer, RequestFailed
from bench.flags import http_target
from bench.prompts import LARGE, Ask, clean_picture, story
from bench.window import Window
from tests.stack import Stack

ECHO = "tokens=40&tokens_per_s=200"
"""Answers of 40 words, at a speed that leaves gaps to be measured."""


@pytest.fixture(scope="module")
def address(echo_stack: Stack) -> str:
    echo_stack.echo_worker(ECHO, **{"model-name": "talker", "limit-model-concurrency": "8"})
    small = "tokens=10&context_length=120"
    echo_stack.echo_worker(small, **{"model-name": "forgetful"})
    return echo_stack.api()


def measure(file: Path, *arguments: str) -> dict[str, Any]:
    latency.main([*arguments, "--json", str(file)])
    figures: dict[str, Any] = json.loads(file.read_text())
    return figures


@pytest.mark.parametrize("pictures", [False, True])
def test_chats_are_watched_before_and_after_a_long_prompt_arrives(
    address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], pictures: bool
) -> None:
    arguments = ["--scenario", "arrivals", "--target", f"one={address},model=talker"]
    arguments += ["--chats", "4", "--tokens", "40", "--prompt-tokens", "600", "--rounds", "2"]
    arguments += ["--window-s", "0.3", *(["--pictures"] if pictures else [])]
    figures = measure(tmp_path / "figures.json", *arguments)

    (result,) = figures["results"]
    assert (len(result["rounds"]), result["failures"]) == (2, [])
    for found in [*result["rounds"], result["median"]]:
        for window in (found["quiet"], found["disturbed"]):
            p50, p99 = window["per_token_p50_ms"], window["per_token_p99_ms"]
            assert p50 <= p99
            assert window["ratio"] == (p99 / p50 if p50 else 0)
            # a token's own gap is not longer than that of the piece it came with
            assert window["longest_gap_ms"] >= p99 * 0.999
        arrived = arrived_of(found)
        assert [each["prompt_tokens"] for each in arrived] == ([600, 13] if pictures else [600])
        assert all(each["first_token_ms"] > 0 for each in arrived)
    for window in (result["median"]["quiet"], result["median"]["disturbed"]):
        assert window["per_token_p50_ms"] > 0
        assert window["tokens_per_s"] > 0
    for found in result["rounds"]:
        slowest_s = max(each["first_token_ms"] for each in arrived_of(found)) / 1000
        assert found["disturbed"]["length_s"] >= 0.3 + slowest_s - 0.001
        assert 0.3 <= found["quiet"]["length_s"] <= found["disturbed"]["length_s"] + 0.001
    assert figures["settings"]["scenario"] == "arrivals"
    assert "bench.latency" in figures["machine"]["command"]

    shown = capsys.readouterr().out
    assert [line.split()[1] for line in shown.splitlines() if "disturbed " in line] == [
        "undisturbed",
        "disturbed",
    ]
    assert "one                 first token of the prompt (600 tokens):" in shown
    assert ("first token of the picture (13 tokens):" in shown) == pictures
    assert f"--seed {figures['settings']['seed']}" in shown


def arrived_of(found: dict[str, Any]) -> list[dict[str, float]]:
    return [each for each in (found["prompt"], found["picture"]) if each]


@pytest.mark.parametrize("pictures", [False, True])
def test_a_second_turn_is_set_beside_a_cold_prompt_as_long(
    address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], pictures: bool
) -> None:
    arguments = ["--scenario", "turns", "--history-tokens", "300", "--rounds", "3"]
    arguments += [f"--target={name}={address},model=talker" for name in ("one", "two")]
    figures = measure(tmp_path / "figures.json", *arguments, *(["--pictures"] if pictures else []))

    assert [each["target"] for each in figures["results"]] == ["one", "two"]
    for result in figures["results"]:
        assert (len(result["rounds"]), result["failures"]) == (3, [])
        history, answer, question = 300, 16, 12
        for found in [*result["rounds"], result["median"]]:
            # the history, the answer in its words, the question; a picture is a token more
            assert found["cold_prompt_tokens"] == history + answer + question + pictures
            assert found["warm_prompt_tokens"] == found["cold_prompt_tokens"]
            assert min(found["warm_ms"], found["cold_ms"]) > 0
            assert found["ratio"] == found["warm_ms"] / found["cold_ms"]
        of_rounds = sorted(found["warm_ms"] for found in result["rounds"])
        assert result["median"]["warm_ms"] == of_rounds[1]
    assert figures["settings"]["tokens"] == 16

    shown = capsys.readouterr().out
    rows = [line.split() for line in shown.splitlines() if line.startswith(("one ", "two "))]
    medians = [each["median"] for each in figures["results"]]
    assert [row[:4] for row in rows] == [
        [name, f"{m['warm_ms']:.1f}", f"{m['cold_ms']:.1f}", f"{m['ratio']:.2f}"]
        for name, m in zip(("one", "two"), medians, strict=True)
    ]


def test_the_same_seed_repeats_a_run_and_rounds_that_fail_are_told(
    address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # the first turn fits into the context of 120 tokens, the second does not
    arguments = ["--scenario", "turns", "--history-tokens", "108", "--rounds", "1", "--seed", "7"]
    arguments += ["--target", f"right={address},model=talker"]
    arguments += ["--target", f"wrong={address},model=forgetful"]
    figures = measure(tmp_path / "figures.json", *arguments)

    right, wrong = figures["results"]
    assert (len(right["rounds"]), right["failures"]) == (1, [])
    assert (wrong["rounds"], wrong["median"], len(wrong["failures"])) == ([], None, 2)
    assert figures["settings"]["seed"] == 7
    assert "wrong, 2 failed: status 400" in capsys.readouterr().out


def test_a_server_that_refuses_is_told_at_once(address: str) -> None:
    with pytest.raises(SystemExit, match="one: status 404"):
        latency.main(["--scenario", "turns", "--target", f"one={address},model=nobody"])


def test_words_are_counted_by_the_server(address: str) -> None:
    flags = latency.read_flags(["--scenario", "turns"])
    target = http_target(f"one={address},model=talker", flags)
    assert [latency.words_for(target, tokens, "0") for tokens in (40, 150, 1000)] == [40, 150, 1000]
    reply = target.reply(Ask(story("0", 30)).messages(), max_tokens=3)
    assert (reply.text, reply.prompt_tokens) == (story("0", 3), 30)


def test_stories_of_two_seeds_differ_from_their_first_word() -> None:
    stories = [story(f"0 {turn} {kind}", 200).split() for turn in range(5) for kind in "ab"]
    assert {len(words) for words in stories} == {200}
    assert len({words[0] for words in stories}) == len(stories)
    assert story("0", 200).startswith(story("0", 90) + " ")


def test_the_large_picture_has_no_noise() -> None:
    pngs = {clean_picture(f"{seed}", LARGE) for seed in range(4)}
    assert len(pngs) == 4
    for png in pngs:
        assert len(png) < 500_000
        assert Image.open(io.BytesIO(png)).size == (1792, 1344)


def test_a_window_counts_gaps_where_they_end() -> None:
    first = Answer(0.0, [(1.0, 1.0), (1.5, 1.0), (2.0, 2.0), (4.0, 1.0)])
    second = Answer(0.0, [(1.75, 1.0)])
    window = Window.of([first, second], 1.4, 3.4)
    assert window.length_s == pytest.approx(2.0)
    assert window.tokens_per_s == pytest.approx(2.0)
    assert window.per_token_p50_ms == pytest.approx(250)
    assert window.per_token_p99_ms == pytest.approx(500)
    assert window.longest_gap_ms == pytest.approx(500)
    assert window.ratio == pytest.approx(2)
    assert Window.of([second], 1.0, 2.0).ratio == 0


def test_an_answer_without_text_is_no_answer() -> None:
    with pytest.raises(RequestFailed, match="without any text"):
        Answer(0.0).require()
    with pytest.raises(RequestFailed, match="too long"):
        Answer(0.0, [(1.0, 1.0)], error="too long").require()
