"""The page "Side by side" in a real browser, over a real Valkey and real workers."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, expect

from broker import jobs, keys, registry
from tests.asking import newest
from tests.frontend.battle_tab import AFTER, HIDDEN, OUTCOMES, VOTES, BattleTab
from tests.stack import Process, Stack, until

ROOT = Path(__file__).parents[2]
SCREENSHOT = ROOT / "docs" / "images" / "battle.png"
EXAMPLES = ROOT / "frontend" / "ui" / "examples"
HOSTILE = "<img src=x onerror=alert(1)> costs $5 and $6 <ref>cat</ref>"


def worker(stack: Stack, name: str, options: str = "") -> Process:
    return stack.echo_worker(options, **{"model-name": name})


def battles(stack: Stack) -> list[dict[str, str]]:
    """The votes, oldest first."""
    entries: list[tuple[bytes, dict[bytes, bytes]]] = stack.redis.xrange(keys.FEEDBACK_LOG)  # type: ignore[assignment]
    return [{name.decode(): text.decode() for name, text in each.items()} for _, each in entries]


def texts(job: jobs.Job) -> list[tuple[str, str]]:
    return [(message.role, message.text) for message in job.request.messages]


def test_an_anonymous_battle_tells_no_name_before_the_vote(
    stack: Stack, browser: BrowserContext
) -> None:
    for name in ("secret-ant", "secret-bee"):
        worker(stack, name, "tokens_per_s=20&prefill_s=2")
    tab = BattleTab(browser, stack.ui())
    expect(tab.page.locator("#board")).to_have_text("No two answers have been compared yet.")
    tab.expect_enabled("Send")
    tab.ask(HOSTILE)
    tab.expect_enabled("Stop")
    for side in ("left", "right"):
        expect(tab.name(side)).to_have_text(f"{side.capitalize()}: {HIDDEN}")
        expect(tab.answers_of(side)).to_have_text(HOSTILE)
        expect(tab.answers_of(side).locator("img")).to_have_count(0)
        expect(tab.told(side)).to_contain_text("9 tokens")
    tab.expect_enabled(*AFTER, *VOTES)
    assert "secret" not in tab.received()

    tab.button("Left is better").click()
    expect(tab.line).to_have_text("Thanks, your vote is noted: Left is better.")
    tab.expect_enabled("Send", "New round")
    (vote,) = battles(stack)
    left, right = vote["left_model"], vote["right_model"]
    assert {left, right} == {"secret-ant", "secret-bee"}
    expect(tab.name("left")).to_have_text(f"Left: {left}")
    expect(tab.name("right")).to_have_text(f"Right: {right}")
    assert (vote["vote"], vote["anonymous"], vote["ip"]) == ("left", "yes", "127.0.0.1")
    for side, model in (("left", left), ("right", right)):
        job = newest(stack, model)
        assert vote[f"{side}_job"] == job.id
        assert vote[f"{side}_answer"] == HOSTILE
        assert texts(job) == [("user", HOSTILE)]
    assert left in tab.received() and right in tab.received()

    until(lambda: tab.row(left)[4:] == ["1", "1", "0", "0", "0"], "the winner is rated")
    assert tab.row(right)[4:] == ["1", "0", "1", "0", "0"]
    assert tab.row(left)[0] == tab.row(right)[0] == "1 to 2"
    assert int(tab.row(left)[2]) > 1000 > int(tab.row(right)[2])

    tab.ask("and on")
    tab.expect_enabled(*AFTER, *VOTES)
    said = [("user", HOSTILE), ("assistant", HOSTILE), ("user", "and on")]
    assert texts(newest(stack, left)) == texts(newest(stack, right)) == said
    tab.button("Both are bad").click()
    until(lambda: len(battles(stack)) == 2, "it is voted on as well")
    last = battles(stack)[-1]
    assert (last["vote"], last["anonymous"]) == ("bothbad", "no")
    until(lambda: tab.row(left)[4:] == ["2", "1", "0", "1", "1"], "it is counted")

    tab.button("New round").click()
    tab.expect_enabled("Send")
    expect(tab.name("left")).to_have_text("Left: no model yet")
    expect(tab.questions_of("left")).to_have_count(0)
    tab.close()


def test_both_answer_again_and_of_two_votes_at_once_one_counts(
    stack: Stack, browser: BrowserContext
) -> None:
    for name in ("ant", "bee"):
        worker(stack, name)
    tab = BattleTab(browser, stack.ui())
    tab.ask("once")
    tab.expect_enabled(*AFTER, *VOTES)
    first = {name: newest(stack, name) for name in ("ant", "bee")}
    tab.button("Regenerate").click()
    for name, before in first.items():
        until(lambda: newest(stack, name).id != before.id, "it is asked again")  # noqa: B023
        assert texts(newest(stack, name)) == texts(before)
    tab.expect_enabled(*AFTER, *VOTES)
    expect(tab.answers_of("left")).to_have_text("once")
    tab.page.evaluate(
        """() => [...document.querySelectorAll('#votes button')].forEach((each) => each.click())"""
    )
    tab.expect_enabled("Send", "New round")
    (vote,) = battles(stack)
    counts = dict(zip(OUTCOMES, VOTES, strict=True))[vote["vote"]]
    expect(tab.line).to_have_text(f"Thanks, your vote is noted: {counts}.")
    tab.ask("again")
    tab.expect_enabled(*AFTER, *VOTES)
    assert len(battles(stack)) == 1
    assert {vote["left_job"], vote["right_job"]}.isdisjoint(job.id for job in first.values())
    tab.close()


def test_both_stream_with_a_line_each_and_one_stop_ends_both(
    stack: Stack, browser: BrowserContext
) -> None:
    worker(stack, "fast", "tokens_per_s=12&tokens=2000")
    worker(stack, "slow", "tokens_per_s=5&tokens=2000")
    tab = BattleTab(browser, stack.ui())
    tab.choose("fast", "slow")
    tab.ask("one two three")
    expect(tab.name("left")).to_have_text("Left: fast")
    expect(tab.name("right")).to_have_text("Right: slow")
    expect(tab.answers_of("left")).to_contain_text("one two three one two three one two")
    expect(tab.answers_of("right")).to_contain_text("one two three one")
    expect(tab.told("left")).to_have_text(re.compile(r"answering · 1\d tokens/s"))
    expect(tab.told("right")).to_have_text(re.compile(r"answering · [45] tokens/s"))
    tab.expect_enabled("Stop")
    tab.button("Stop").click()
    for side in ("left", "right"):
        expect(tab.told(side)).to_contain_text("tokens/s")
        expect(tab.told(side)).to_contain_text("stopped")
    until(
        lambda: not sum(info.running for info in registry.workers(stack.redis)),
        "both slots are free",
    )
    tab.expect_enabled(*AFTER, *VOTES)
    fast, slow = newest(stack, "fast"), newest(stack, "slow")
    assert (fast.state, slow.state) == ("cancelled", "cancelled")
    tab.button("Tie").click()
    until(lambda: len(battles(stack)) == 1, "the vote is noted")
    (vote,) = battles(stack)
    assert (vote["vote"], vote["anonymous"]) == ("tie", "no")
    assert (vote["left_job"], vote["right_job"]) == (fast.id, slow.id)
    assert vote["left_answer"] == tab.answers_of("left").inner_text().strip()
    tab.close()


def test_a_side_that_fails_does_not_hold_the_other_and_no_vote_is_taken(
    stack: Stack, browser: BrowserContext
) -> None:
    processes = {
        name: worker(stack, name, "tokens_per_s=10&tokens=60") for name in ("secret-a", "secret-b")
    }
    tab = BattleTab(browser, stack.ui())
    tab.ask("word by word")
    for side in ("left", "right"):
        expect(tab.answers_of(side)).to_contain_text("word by word word")
    processes["secret-b"].signal(signal.SIGKILL)
    until(lambda: newest(stack, "secret-a").state == "done", "the other one has answered", 60)
    tab.expect_enabled(*AFTER, timeout_ms=60_000)
    expect(tab.line).to_contain_text("No vote is taken, for not both models have answered.")
    failed = tab.page.locator("#sides").get_by_role("alert")
    expect(failed).to_have_text(
        "No worker of this model is alive any more. Regenerate tries again."
    )
    done = tab.page.locator("#sides").get_by_role("status")
    expect(done).to_contain_text("61 tokens")
    assert "secret" not in tab.received()

    # What only one has answered is in neither chat.
    worker(stack, "secret-b", "tokens_per_s=10&tokens=60")
    tab.ask("something else")
    tab.expect_enabled(*AFTER, *VOTES)
    for name in processes:
        assert texts(newest(stack, name)) == [("user", "something else")]
    assert battles(stack) == []
    tab.close()


def test_a_side_that_waits_is_told_why_while_the_other_answers(
    stack: Stack, browser: BrowserContext
) -> None:
    narrow = {"model-name": "narrow", "limit-model-concurrency": "1"}
    stack.echo_worker("tokens_per_s=20&tokens=4000", **narrow)
    worker(stack, "wide")
    address = stack.ui()
    first, second = (BattleTab(browser, address) for _ in range(2))
    for tab in (first, second):
        tab.choose("narrow", "wide")
    first.ask("I am first")
    expect(first.answers_of("left")).to_contain_text("I am first I")
    second.ask("I wait")
    expect(second.answers_of("right")).to_have_text("I wait")
    expect(second.told("left")).to_contain_text("queued, next in line")
    second.ask("not yet")  # Enter does nothing meanwhile
    expect(second.message).to_have_value("not yet")
    second.button("Stop").click()
    expect(second.told("left")).to_have_text("stopped before it began")
    second.expect_enabled(*AFTER)
    expect(second.line).to_contain_text("No vote is taken")
    expect(second.questions_of("left")).to_have_count(1)
    first.button("Stop").click()
    first.expect_enabled(*AFTER, *VOTES)
    first.close()
    second.close()


def test_two_ready_models_are_needed(stack: Stack, browser: BrowserContext) -> None:
    worker(stack, "ant")
    tab = BattleTab(browser, stack.ui())
    sentence = "A battle needs two ready models, and there is one at the moment."
    expect(tab.page.locator("#notice")).to_contain_text(sentence)
    tab.ask("Anybody?")
    expect(tab.line).to_contain_text(sentence)
    expect(tab.message).to_have_value("Anybody?")
    tab.expect_enabled("Send")
    worker(stack, "bee")
    expect(tab.page.locator("#notice")).to_have_text("", timeout=10_000)
    tab.choose("ant", "ant")
    tab.message.press("Enter")
    expect(tab.line).to_contain_text("Choose two different models")
    tab.choose("bee", "ant")
    tab.message.press("Enter")
    tab.expect_enabled(*AFTER, *VOTES)
    expect(tab.name("left")).to_have_text("Left: bee")
    tab.close()


def test_who_leaves_gives_up_both_answers(stack: Stack, browser: BrowserContext) -> None:
    for name in ("ant", "bee"):
        worker(stack, name, "tokens_per_s=10&tokens=2000")
    tab = BattleTab(browser, stack.ui(HELIOGRAPH_UI_GRACE_S="2"))
    tab.ask("anybody there?")
    for side in ("left", "right"):
        expect(tab.answers_of(side)).to_contain_text("anybody there? anybody")
    started = [newest(stack, name) for name in ("ant", "bee")]
    assert [job.on_disconnect for job in started] == ["grace:2", "grace:2"]
    tab.close()
    until(
        lambda: {jobs.read(stack.redis, job.id).state for job in started} == {"cancelled"},
        "both are cancelled",
    )


def test_a_phone_stacks_the_chats_and_keys_are_enough(
    stack: Stack, browser: BrowserContext
) -> None:
    for name in ("ant", "bee"):
        worker(stack, name)
    tab = BattleTab(browser, stack.ui(), width=360, height=780)
    tab.page.emulate_media(color_scheme="dark")
    tab.message.focus()
    tab.page.keyboard.type("w" * 120)
    tab.page.keyboard.press("Enter")
    tab.expect_enabled(*AFTER, *VOTES)
    assert tab.page.evaluate("document.documentElement.scrollWidth") <= 360
    left, right = (tab.answers_of(side).bounding_box() for side in ("left", "right"))
    assert left and right and left["y"] + left["height"] <= right["y"]
    unnamed = tab.page.evaluate(
        """() => [...document.querySelectorAll('button, input, textarea, select')]
          .filter((each) => each.offsetParent && !each.ariaLabel && !each.innerText.trim()
            && !each.labels?.length && !each.title).map((each) => each.outerHTML)"""
    )
    assert unnamed == []
    tab.button("Tie").focus()
    tab.page.keyboard.press("Enter")
    expect(tab.name("left")).not_to_have_text(f"Left: {HIDDEN}")
    tab.close()


@pytest.mark.timeout(240)
def test_pictures_reach_both_and_the_demo_model_is_right(
    demo_stack: Stack, browser: BrowserContext
) -> None:
    worker(demo_stack, "parrot", "tokens_per_s=40")
    tab = BattleTab(browser, demo_stack.ui(), width=1000, height=900)
    tab.choose("heliograph-demo", "parrot")
    tab.set_sliders({"Temperature": 0, "Max output tokens": 128})
    tab.add_pictures(EXAMPLES / "four-shapes.png", EXAMPLES / "five-shapes.png")
    tab.ask("Which is this?")
    tab.expect_enabled(*AFTER, *VOTES, timeout_ms=90_000)
    shown = newest(demo_stack, "parrot").request
    assert len(shown.images) == 2
    names = " ".join(f"[image {sha[:8]}]" for sha in shown.images)
    expect(tab.answers_of("right")).to_have_text(f"{names} Which is this?")
    assert newest(demo_stack, "heliograph-demo").request.messages == shown.messages
    assert shown.sampling.temperature == 0 and shown.sampling.max_tokens == 128
    expect(tab.questions_of("left").locator("img")).to_have_count(2)

    tab.button("New round").click()
    expect(tab.answers_of("left")).to_have_count(0)
    tab.add_pictures(EXAMPLES / "five-shapes.png")
    tab.ask("How many shapes are there?")
    tab.expect_enabled(*AFTER, *VOTES, timeout_ms=90_000)
    expect(tab.answers_of("left")).to_have_text("five")
    tab.button("Left is better").click()
    until(lambda: tab.row("heliograph-demo")[4:6] == ["1", "1"], "it is rated")
    assert json.loads(battles(demo_stack)[-1]["left_messages"])[0]["content"][0]["type"] == "image"
    SCREENSHOT.parent.mkdir(parents=True, exist_ok=True)
    tab.page.get_by_role("button", name="Parameters").click()
    expect(tab.page.get_by_label("number input for Temperature")).to_be_hidden()
    tab.page.screenshot(path=SCREENSHOT, animations="disabled", full_page=True)
    tab.close()


def test_a_file_that_is_no_picture_is_refused(
    stack: Stack, browser: BrowserContext, tmp_path: Path
) -> None:
    for name in ("ant", "bee"):
        worker(stack, name)
    path = tmp_path / "broken.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    tab = BattleTab(browser, stack.ui())
    tab.add_pictures(path)
    tab.ask("What is it?")
    expect(tab.line).to_contain_text("The image cannot be read")
    expect(tab.message).to_have_value("What is it?")
    tab.expect_enabled("Send")
    tab.close()
