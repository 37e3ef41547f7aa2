"""What the chat page remembers and says, without a browser."""

from typing import Any

import pytest

from broker.conversation import Chat, new_chat
from broker.errors import InvalidImage, NoLiveWorker, RedisUnavailable
from broker.events import End, EventId, FinishReason, SeenImage, Timings, Usage
from broker.messages import GenerateRequest, WorkerInfo
from frontend.line import Place
from frontend.ui import wording
from frontend.ui.answer import LONG_CHARACTERS
from frontend.ui.conversation import Bookmark, Controls, phase
from frontend.ui.markup import as_markdown, as_text, render, turn_at

SHA = "ab" * 32


def worker(**changes: object) -> WorkerInfo:
    record = {"id": "w1", "model": "m", "engine": "echo", "device": "cpu", "host": "h", "pid": 1}
    return WorkerInfo.model_validate(record | {"state": "ready"} | changes)


def end(reason: FinishReason, tokens: int) -> End:
    return End(EventId(1, 9), "", (), reason, Usage(10, tokens), Timings(0.1, 0.5, 2.5))


ENDED = {"finish": "stop", "usage": Usage(10, 3), "timings": Timings(0.1, 0.5, 2.5)}
JOB = GenerateRequest(id="j1", model="m", messages=(), created_s=0.0)


def answered(chat: Chat, text: str, **ended: object) -> Chat:
    """The chat with its last question answered."""
    sent = chat.send(JOB)
    assert sent.last is not None
    return sent.with_last(sent.last.model_copy(update={"text": text} | (ended or ENDED)))


def test_pictures_come_before_the_words_of_their_turn() -> None:
    turn = new_chat("me").ask("What is this?", (SHA,)).messages[0]
    assert [part.type for part in turn.content] == ["image", "text"]
    assert turn.text == "What is this?"


def test_what_the_model_got_of_the_pictures_is_told() -> None:
    one, two = SeenImage(640, 480, 5, 448, 448, 1282), SeenImage(60, 60, 1, 56, 56, 1)
    unknown = SeenImage(9, 8, 0, 0, 0, 40)
    chat = new_chat("me").ask("What is this?", (SHA,))
    assert wording.got(chat, Usage(1300, 5)) == ""
    assert wording.got(chat, Usage(1300, 5, images=(one,))) == (
        '<details class="line" open><summary>The model got 1,300 tokens, 1,282 of them for '
        "pictures</summary>640 x 480 pixels as 5 tiles of 448 x 448, 1,282 tokens</details>"
    )
    chat = answered(chat, "A cat").ask("And these?", (SHA, SHA))
    assert wording.got(chat, Usage(1400, 5, images=(one, two, unknown))) == (
        '<details class="line" open><summary>The model got 1,400 tokens, 1,323 of them for '
        "pictures</summary>1 of earlier turns: 1,282 tokens · picture 1: 60 x 60 pixels as "
        "56 x 56, 1 token · picture 2: 9 x 8 pixels, 40 tokens</details>"
    )
    many = new_chat("me").ask("And these?", (SHA,) * 3)
    assert '<details class="line"><summary>' in wording.got(many, Usage(9, 5, images=(one,) * 3))
    told = answered(chat, "Dogs", finish="stop", usage=Usage(9, 3, images=(one,) * 3))
    assert "The model got" not in wording.last(told)  # no timings yet
    told = answered(chat, "Dogs", **ENDED | {"usage": Usage(9, 3, images=(one,) * 3)})
    assert wording.last(told).startswith("<p") and "picture 2: 640 x 480" in wording.last(told)


def test_words_are_kept_whole_and_unchanged() -> None:
    text = "  indented\n\ttab <image> </s> " + "x" * 5000
    assert new_chat("me").ask(text).messages[0].text == text


def test_a_turn_that_was_never_answered_grows() -> None:
    chat = new_chat("me").ask("First", (SHA,)).ask("Second")
    assert [message.role for message in chat.messages] == ["user"]
    assert chat.messages[0].text == "First\n\nSecond"
    assert chat.messages[0].images == (SHA,)


def test_a_picture_may_come_at_any_turn_and_earlier_turns_stay() -> None:
    chat = answered(new_chat("me").ask("Hello"), "Hi").ask("And this?", (SHA,))
    assert [message.role for message in chat.messages] == ["user", "assistant", "user"]
    assert chat.messages[2].images == (SHA,)


def test_regenerate_drops_the_last_answer_only() -> None:
    chat = answered(new_chat("me").ask("Hello"), "Hi").ask_again()
    assert [message.text for message in chat.messages] == ["Hello"]
    assert chat.ask_again() == chat


def test_an_empty_answer_is_no_turn() -> None:
    chat = new_chat("me").ask("Hello")
    assert answered(chat, "").messages == chat.messages
    assert [turn.question.text for turn in answered(chat, "").ask("Again").turns] == [
        "Hello\n\nAgain"
    ]


def test_the_phase_is_what_the_chat_says() -> None:
    chat = new_chat("me")
    asked = chat.ask("Hello")
    assert (phase(chat), phase(asked), phase(asked.send(JOB))) == ("empty", "failed", "answering")
    assert phase(answered(asked, "Hi")) == "answered"
    assert phase(answered(asked, "Hi").with_vote("j1", "flag")) == "voted"
    assert phase(answered(asked, "Hi").with_vote("another", "flag")) == "answered"
    assert phase(answered(asked, "")) == "failed"
    assert phase(answered(asked, "Hi", error=NoLiveWorker("Gone.").body)) == "failed"


@pytest.mark.parametrize("text", [None, "", "x", "x:", ":1", "x:1:2", "a b:1", "x:-1", "é:1"])
def test_what_is_no_bookmark_is_a_new_chats(text: str | None) -> None:
    assert Bookmark.parse(text) == Bookmark()
    assert str(Bookmark.parse(text)) == ""


def test_a_bookmark_is_read_back_as_it_was_written() -> None:
    chat = new_chat("me").model_copy(update={"version": 12})
    assert Bookmark.parse(str(Bookmark.of(chat))) == Bookmark(chat.id, 12)
    assert str(Bookmark.of(new_chat("me"))) == ""


def test_buttons_follow_the_phase() -> None:
    assert Controls.of("empty") == Controls(True, False, False, False, False)
    assert Controls.of("answering") == Controls(False, True, False, False, False)
    assert Controls.of("answered") == Controls(True, False, True, True, True)
    assert Controls.of("failed") == Controls(True, False, True, True, False)
    assert Controls.of("voted") == Controls(True, False, True, True, False)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a <b>bold</b> word", "a &lt;b>bold&lt;/b> word"),
        ("<ref>cat</ref><box>[[1, 2]]</box>", "&lt;ref>cat&lt;/ref>&lt;box>[[1, 2]]&lt;/box>"),
        ("1 < 2 and <3", "1 < 2 and <3"),
        ("code `<b>` and ``a ` <i>``", "code `<b>` and ``a ` <i>``"),
        ("```html\n<b>\n```\n<i>", "```html\n<b>\n```\n&lt;i>"),
        ("```html\n<b> still streaming", "```html\n<b> still streaming"),
        ("one ` tick <b>", "one ` tick &lt;b>"),
        ("$$a <b$$ and \\(x<y\\) <u>", "$$a <b$$ and \\(x<y\\) &lt;u>"),
        ("<!-- hidden --> <?php", "&lt;!-- hidden --> &lt;?php"),
    ],
)
def test_html_becomes_visible_text_outside_of_code_and_formulas(text: str, shown: str) -> None:
    assert as_markdown(text) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("so $x$ and $y_1$.", r"so \(x\) and \(y_1\)."),
        (r"$\frac{1}{2}$", r"\(\frac{1}{2}\)"),
        ("$a + b = c$ holds", r"\(a + b = c\) holds"),
        ("($n$-th, $2n$)", r"(\(n\)-th, \(2n\))"),
        ("$a < b$", r"\(a < b\)"),
        ("für $x$。", r"für \(x\)。"),
        ("公式$x$和$y_1$、价格$5和$6", r"公式\(x\)和\(y_1\)、价格$5和$6"),
        ("_with $y$_", r"_with \(y\)_"),
        (r"$p = \$5$, $\$6$", r"\(p = \$5\), \(\$6\)"),
        ("costs $5, so $x=5$", r"costs $5, so \(x=5\)"),
    ],
)
def test_single_dollars_around_a_formula_make_it_one(text: str, shown: str) -> None:
    assert as_markdown(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "$5 and $6",
        "between $5 and 10$ a head",
        "US$5, US$6",
        "$5-$6, $5/$6",
        "costs $5 (was $6).",
        "a $ sign, $ 5 $",
        "$HOME and $PATH",
        r"\$x\$",
        r"\$5 and \$6",
        "价格$5和$6、约$7到$8",
        "$x = 1",
        "`$x$`",
        "```\n$x$\n```",
        "$$x$$",
        "$x\ny$",
        "$5,000 + tax, or $6,000 + tax",
    ],
)
def test_money_and_other_dollars_stay(text: str) -> None:
    assert as_markdown(text) == text


def test_pictures_are_shown_by_address() -> None:
    shown = render(answered(new_chat("me").ask("Look", (SHA,)), "It is"))
    assert [bubble["role"] for bubble in shown] == ["user", "assistant"]
    assert shown[0]["content"][0]["text"] == f"![picture abababab](pictures/{SHA})\n\nLook"


@pytest.mark.parametrize("text", ["", "Look", "a <b>, 1 < 2\n`<i>`", "  ![x](y)"])
@pytest.mark.parametrize("pictures", [0, 1, 3])
def test_a_bubble_that_was_not_edited_is_what_was_written(text: str, pictures: int) -> None:
    (bubble,) = render(new_chat("me").ask(text, (SHA,) * pictures))
    assert as_text(bubble["content"][0]["text"]) == text


def test_a_bubble_belongs_to_its_turn_also_beside_answers_without_words() -> None:
    first = answered(new_chat("me").model_copy(update={"system": "Be brief."}).ask("One"), "1")
    chat = answered(answered(first.ask("Two"), "2").ask("Three"), "")
    assert [turn_at(chat, place) for place in range(-1, 6)] == [-1, 0, 0, 1, 1, 2, -1]
    assert len(render(chat)) == 5


def test_a_chats_last_line_says_how_it_ended_and_the_vote() -> None:
    asked = new_chat("me").ask("Hello")
    line = "3 tokens · 1 tokens/s · first token after 0.50 s"
    assert wording.last(asked) == ""
    assert line in wording.last(answered(asked, "Hi"))
    assert f"{line} · you voted it down<" in wording.last(
        answered(asked, "Hi").with_vote("j1", "downvote")
    )
    failed = answered(asked, "Hi", error=NoLiveWorker("Gone.").body)
    assert "Gone. (job j1) Regenerate" in wording.last(failed)


def test_a_waiting_reader_is_told_why() -> None:
    loading = worker(state="loading", progress=43)
    assert wording.waiting(Place(3, None), [loading]) == "the model is loading (43 %)"
    assert wording.waiting(Place(2, None), [worker(), loading]) == "queued, 2 ahead"
    assert wording.waiting(Place(0, None), [worker()]) == "queued, next in line"
    assert wording.waiting(None, [worker()]) == "a worker is taking the question"
    assert "waiting for one" in wording.waiting(Place(0, 1.0), [])


@pytest.mark.parametrize(
    ("place", "line"),
    [
        (Place(0, 0.2), "queued, next in line, about 1 s"),
        (Place(3, 11.2), "queued, 3 ahead, about 12 s"),
        (Place(9, 89.1), "queued, 9 ahead, about 90 s"),
        (Place(9, 90.0), "queued, 9 ahead, about 2 min"),
        (Place(40, 290.0), "queued, 40 ahead, about 5 min"),
    ],
)
def test_a_waiting_reader_is_told_how_long_it_may_take(place: Place, line: str) -> None:
    assert wording.waiting(place, [worker()]) == line


def test_the_last_line_counts_and_says_why_the_answer_ended() -> None:
    assert wording.ending(end("stop", 21)) == "21 tokens · 10 tokens/s · first token after 0.50 s"
    assert wording.ending(end("length", 64)).endswith("· stopped at the token limit")
    assert wording.ending(end("cancelled", 5)).endswith("· stopped")
    assert wording.ending(end("cancelled", 0)) == "stopped before it began"


def test_words_that_came_at_once_have_no_speed() -> None:
    told = End(EventId(1, 9), "", (), "stop", Usage(10, 3), Timings(0.1, 0.3, 0.3001))
    assert wording.ending(told) == "3 tokens · first token after 0.30 s"


def test_an_error_says_what_happened_to_which_job_and_what_to_do() -> None:
    shown = wording.error(NoLiveWorker("Nobody <is> there.").body, "j1")
    assert "Nobody &lt;is&gt; there. (job j1) Regenerate tries again." in shown
    assert "Regenerate" not in wording.error(InvalidImage("Not a picture.").body)


def test_only_a_question_that_is_kept_can_be_asked_again_by_regenerate() -> None:
    """A message that was refused stays in its box, to be sent once more."""
    refused = RedisUnavailable("Redis does not answer.").body
    assert "Regenerate" not in wording.error(refused)
    assert "Regenerate tries again." in wording.error(refused, is_kept=True)


def test_code_in_a_long_answer_gets_its_colours_at_the_end() -> None:
    code = "```python\nx = 1\n```\n\n~~~ js\ny\n~~~\n"
    for words, growing in (
        ("", code),
        ("w " * LONG_CHARACTERS, "```\nx = 1\n```\n\n~~~\ny\n~~~\n"),
    ):
        sent = new_chat("me").ask("Write").send(JOB)
        assert sent.last is not None
        told = sent.last.model_copy(update={"text": f"{code}{words}"})
        assert text_of(render(sent.with_last(told))) == f"{growing}{words}"
        ended = told.model_copy(update={"finish": "stop"})
        assert text_of(render(sent.with_last(ended))) == f"{code}{words}"


def text_of(bubbles: list[dict[str, Any]]) -> str:
    """The words of the last bubble."""
    return str(bubbles[-1]["content"][0]["text"])
