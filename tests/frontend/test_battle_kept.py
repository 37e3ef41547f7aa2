"""Battles in a real browser: what a reload, a second tab and a second UI process show of them."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import BrowserContext, expect

from broker import jobs, keys
from tests.asking import newest
from tests.frontend.battle_tab import AFTER, HIDDEN, OUTCOMES, VOTES, BattleTab
from tests.frontend.test_battle_page import battles, worker
from tests.stack import Stack, until

WORDS = 400
SLOW = 15  # tokens/s
# For tests that end answers themselves: these last for as long as it takes to get there.
UNTIL_STOPPED = pytest.mark.parametrize("slow", [3], indirect=True, ids=["3/s"])
MODELS = ("secret-ant", "secret-bee")
QUESTION = "one two three four five six seven"
SIDES = ("left", "right")
VOTED = ("Send", "New round")


@pytest.fixture
def slow(stack: Stack, request: pytest.FixtureRequest) -> Stack:
    """Two models that take 27 s for an answer, and no votes yet, whose leaderboard names models."""
    speed = getattr(request, "param", SLOW)
    for name in MODELS:
        worker(stack, name, f"tokens_per_s={speed}&tokens={WORDS}")
    return stack


@pytest.fixture
def address(slow: Stack) -> str:
    return slow.ui()


@pytest.fixture
def other_address(slow: Stack) -> str:
    """The page of a second process over the same Redis."""
    return slow.ui()


@pytest.fixture
def tab(browser: BrowserContext, address: str) -> Iterator[BattleTab]:
    made = BattleTab(browser, address)
    yield made
    made.close()


def begin(tab: BattleTab) -> str:
    """Ask for two answers, and return the battle when some words are there."""
    tab.ask(QUESTION)
    tab.wait_for_words()
    return tab.battle_id


def whole() -> str:
    """What both models say to the question."""
    return " ".join((QUESTION.split() * WORDS)[:WORDS])


def expect_hidden(tab: BattleTab, stack: Stack) -> None:
    """No name has been told, and no job by which one could look it up."""
    for side in SIDES:
        expect(tab.name(side)).to_have_text(f"{side.capitalize()}: {HIDDEN}")
    told = tab.received()
    assert "secret" not in told
    assert not [job for job in (newest(stack, model).id for model in MODELS) if job in told]


def test_a_reload_in_mid_answer_goes_on_with_both_and_tells_no_name(
    tab: BattleTab, slow: Stack
) -> None:
    opened = begin(tab)
    expect_hidden(tab, slow)
    before = {side: tab.states(side)[-1] for side in SIDES}
    tab.come_back(opened)
    tab.wait_for_words()
    tab.expect_enabled("Stop")
    expect_hidden(tab, slow)
    tab.expect_enabled(*AFTER, *VOTES, timeout_ms=60_000)
    for side in SIDES:
        expect(tab.answers_of(side)).to_have_text(whole())
        expect(tab.questions_of(side)).to_have_text(QUESTION)
        expect(tab.told(side)).to_contain_text(f"{WORDS + 1} tokens")
        states = [before[side], *tab.states(side)]
        assert len(states) > 4
        assert all(new.startswith(old) for old, new in pairwise(states))
    expect_hidden(tab, slow)

    tab.come_back(opened)
    tab.expect_enabled(*AFTER, *VOTES)
    expect_hidden(tab, slow)
    for side in SIDES:
        expect(tab.answers_of(side)).to_have_text(whole())
    tab.button("Right is better").click()
    expect(tab.line).to_have_text("Thanks, your vote is noted: Right is better.")
    vote = battles(slow)[-1]
    names = [f"{side.capitalize()}: {vote[f'{side}_model']}" for side in SIDES]
    for _ in range(2):
        tab.expect_enabled(*VOTED)
        assert [tab.name(side).inner_text() for side in SIDES] == names
        tab.come_back(opened)
    expect(tab.line).to_have_text("Thanks, your vote is noted: Right is better.")
    assert (vote["vote"], vote["anonymous"]) == ("right", "yes")
    assert {vote["left_model"], vote["right_model"]} == {*MODELS}


@UNTIL_STOPPED
def test_a_second_tab_on_a_second_process_may_stop_both_and_of_two_votes_one_counts(
    tab: BattleTab, browser: BrowserContext, slow: Stack, other_address: str
) -> None:
    opened = begin(tab)
    second = BattleTab(browser, other_address)
    second.come_back(opened)
    second.wait_for_words()
    second.expect_enabled("Stop")
    expect_hidden(second, slow)
    second.button("Stop").click()
    for side in SIDES:
        for each in (tab, second):
            expect(each.told(side)).to_contain_text("stopped")
        text = second.answers_of(side).inner_text()
        assert whole().startswith(text) and len(text) < len(whole())
        expect(tab.answers_of(side)).to_have_text(text)
        assert all(new.startswith(old) for old, new in pairwise(second.states(side)))
    assert {newest(slow, model).state for model in MODELS} == {"cancelled"}

    before = len(battles(slow))
    for each in (tab, second):
        each.expect_enabled(*AFTER, *VOTES)
    for each, name in ((tab, "Left is better"), (second, "Right is better")):
        each.button(name).evaluate("button => button.click()")
    for each in (tab, second):
        each.expect_enabled(*VOTED)
    (vote,) = battles(slow)[before:]
    for each in (tab, second):
        for side in SIDES:
            expect(each.name(side)).to_have_text(f"{side.capitalize()}: {vote[f'{side}_model']}")
        counts = dict(zip(OUTCOMES, VOTES, strict=True))[vote["vote"]]
        expect(each.line).to_have_text(f"Thanks, your vote is noted: {counts}.")

    tab.rest()
    second.ask("and on")
    for side in SIDES:
        expect(second.questions_of(side)).to_have_text([QUESTION, "and on"])
    second.expect_enabled("Stop")
    tab.ask("what the first tab does not know of")
    expect(tab.line).to_contain_text("This battle was changed in another tab.")
    expect(tab.message).to_have_value("what the first tab does not know of")
    expect(tab.questions_of("right")).to_have_text([QUESTION, "and on"])
    tab.expect_enabled("Stop")
    tab.button("Stop").click()
    for each in (tab, second):
        each.expect_enabled(*AFTER, *VOTES)
    assert newest(slow, MODELS[0]).request.messages[-1].text == "and on"
    second.close()


@UNTIL_STOPPED
def test_an_idle_tab_follows_what_another_one_does(
    tab: BattleTab, browser: BrowserContext, slow: Stack, other_address: str
) -> None:
    opened = begin(tab)
    tab.button("Stop").click()
    tab.expect_enabled(*AFTER, *VOTES)
    idle = BattleTab(browser, other_address)
    idle.come_back(opened)
    idle.expect_enabled(*AFTER, *VOTES)
    tab.ask("and on")
    for side in SIDES:
        expect(idle.questions_of(side)).to_have_text([QUESTION, "and on"], timeout=10_000)
    idle.wait_for_words()
    idle.expect_enabled("Stop")
    expect_hidden(idle, slow)
    idle.button("Stop").click()
    for each in (tab, idle):
        each.expect_enabled(*AFTER, *VOTES)
    for side in SIDES:
        texts = tab.answers_of(side).all_inner_texts()
        expect(idle.answers_of(side)).to_have_text(texts)
    idle.button("Tie").click()
    expect(tab.line).to_have_text("Thanks, your vote is noted: Tie.", timeout=10_000)
    tab.expect_enabled(*VOTED)
    idle.close()


def test_answers_that_ended_while_nobody_looked_are_there_after_the_process_died(
    browser: BrowserContext, slow: Stack, other_address: str
) -> None:
    tab = BattleTab(browser, slow.ui())
    dying = slow.processes[-1]
    opened = begin(tab)
    dying.signal(signal.SIGKILL)
    tab.page.close()
    started = [newest(slow, model).id for model in MODELS]
    until(
        lambda: {jobs.read(slow.redis, each).state for each in started} == {"done"},
        "both have ended",
        60,
    )
    again = BattleTab(browser, other_address)
    again.come_back(opened)
    again.expect_enabled(*AFTER, *VOTES)
    for side in SIDES:
        expect(again.answers_of(side)).to_have_text(whole())
    expect_hidden(again, slow)

    slow.redis.delete(keys.job(started[0]))  # as after a day
    again.button("Tie").click()
    expect(again.line).to_contain_text("These answers are more than a day old")
    again.expect_enabled(*AFTER, *VOTES)
    for side in SIDES:
        expect(again.name(side)).to_have_text(f"{side.capitalize()}: {HIDDEN}")
    again.close()


def test_what_was_chosen_is_there_again(tab: BattleTab, slow: Stack, tmp_path: Path) -> None:
    picture = tmp_path / "picture.png"
    Image.new("RGB", (64, 32), "orange").save(picture)
    tab.choose(*reversed(MODELS))
    tab.set_sliders({"Temperature": 0.3, "Max output tokens": 64})
    tab.add_pictures(picture)
    tab.ask("What is it?")
    tab.expect_enabled(*AFTER, *VOTES, timeout_ms=30_000)
    tab.come_back(tab.battle_id)
    tab.expect_enabled(*AFTER, *VOTES)
    for side, model in zip(SIDES, reversed(MODELS), strict=True):
        expect(tab.name(side)).to_have_text(f"{side.capitalize()}: {model}")
        box = tab.page.get_by_label(f"{side.capitalize()} model", exact=True)
        expect(box).to_have_value(model)
        expect(box).to_be_disabled()
        expect(tab.questions_of(side).locator("img")).to_have_count(1)
        expect(tab.told(side)).to_contain_text("stopped at the token limit")
    expect(tab.page.get_by_label("Choose the models")).to_be_checked()
    tab.page.get_by_role("button", name="Parameters").click()
    for label, value in (("Temperature", "0.3"), ("Max output tokens", "64"), ("Top-p", "1")):
        expect(tab.page.get_by_label(f"number input for {label}")).to_have_value(value)

    tab.button("Regenerate").click()
    tab.expect_enabled(*AFTER, *VOTES, timeout_ms=30_000)
    sampling = newest(slow, MODELS[0]).request.sampling
    assert (sampling.temperature, sampling.max_tokens) == (0.3, 64)
    tab.button("New round").click()
    expect(tab.name("left")).to_have_text("Left: no model yet")
    tab.page.wait_for_function("!location.search.includes('battle=')")
    tab.choose(*MODELS)
    tab.ask("And now?")
    tab.wait_for_words()
    tab.button("Stop").click()
    tab.button("New round").click()
    tab.choose(*reversed(MODELS))


def test_battles_are_listed_deleted_and_nobody_elses(tab: BattleTab, address: str) -> None:
    ids = []
    for question in ("About ships", "About <b>whales</b>"):
        tab.come_back("")
        tab.expect_enabled("Send")
        tab.ask(question)
        tab.wait_for_words()
        tab.button("Stop").click()
        tab.expect_enabled(*AFTER, *VOTES)
        ids.append(tab.battle_id)
    tab.page.get_by_role("button", name="Battles").click()
    entries = tab.page.get_by_role("navigation", name="Battles").get_by_role("link")
    current = tab.page.locator("#battle-list [aria-current]")
    expect(current).to_have_text("About <b>whales</b>")
    assert entries.all_inner_texts()[:2] == ["About <b>whales</b>", "About ships"]
    entries.nth(1).click()
    expect(tab.questions_of("left")).to_have_text("About ships")
    assert tab.battle_id == ids[0]

    tab.page.get_by_role("button", name="Battles").click()
    expect(current).to_have_text("About ships")
    tab.button("Delete").click()
    tab.button("Keep").click()
    expect(tab.button("Delete for good")).to_be_hidden()
    tab.button("Delete").click()
    tab.button("Delete for good").click()
    expect(tab.questions_of("left")).to_have_count(0)
    expect(tab.page.locator("#battle-list")).not_to_contain_text("ships")
    tab.page.wait_for_function("!location.search.includes('battle=')")
    tab.expect_enabled("Send")
    tab.errors.clear()  # of the connections that the list's link broke off

    context = tab.page.context.browser
    assert context is not None
    elsewhere = context.new_context()
    stranger = BattleTab(elsewhere, address)
    stranger.come_back(ids[1])
    expect(stranger.line).to_contain_text("This battle is not here (any more)")
    expect(stranger.questions_of("left")).to_have_count(0)
    assert "whales" not in stranger.received()
    for each in (stranger, tab):
        assert each.page.request.get(f"{address}/chats/{ids[1]}.json").status == 404
    stranger.close()
    elsewhere.close()
