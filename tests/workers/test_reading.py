"""Prompts that templates wrote are read back: those of the original classes, and ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.messages import ChatMessage, ImagePart, Part, TextPart
from tests.workers.ready import VICUNA, say, split
from workers.commands.prompt import read_messages
from workers.prompt import as_text, write
from workers.templates import TEMPLATES, Template
from workers.templates.reading import read

GOLDEN: list[dict[str, Any]] = json.loads(
    Path(__file__).with_name("golden_prompts.json").read_text("utf-8")
)
READABLE = [name for name in TEMPLATES if name != "plain"]
PICTURES = tuple(ImagePart(sha256=f"{n:064x}") for n in range(9))


def rendered(template: Template, messages: tuple[ChatMessage, ...]) -> str:
    return as_text(write(messages, template.render))


def numbered(messages: tuple[ChatMessage, ...]) -> tuple[ChatMessage, ...]:
    """The same conversation, with a picture of its own in each place."""
    pictures = iter(PICTURES)
    return tuple(
        message.model_copy(
            update={
                "content": tuple(
                    next(pictures) if isinstance(part, ImagePart) else part
                    for part in message.content
                )
            }
        )
        for message in messages
    )


def trimmed(template: Template, messages: tuple[ChatMessage, ...]) -> tuple[ChatMessage, ...]:
    """A conversation without the blanks that a template drops at a first turn with pictures."""
    first, *others = [message for message in messages if message.role != "system"]
    if template.images != "numbered" and first.images:
        parts: tuple[Part, ...] = tuple(
            TextPart(text=part.text.strip()) if isinstance(part, TextPart) else part
            for part in first.content
        )
        first = first.model_copy(update={"content": parts})
    return (*messages[: len(messages) - len(others) - 1], first, *others)


@pytest.mark.parametrize("name", READABLE)
def test_prompts_of_the_original_classes_are_read_back(name: str) -> None:
    cases = [case for case in GOLDEN if case["template"] == name]
    assert len(cases) >= 7
    for case in cases:
        messages = numbered(read_messages(json.dumps(case["messages"])))
        shown = [part for m in messages for part in m.content if isinstance(part, ImagePart)]
        found = read(split(case["expected"], shown))
        assert found is not None
        assert found[1] == trimmed(TEMPLATES[name], messages)
        if messages[0].role != "system":
            assert found[0].system == TEMPLATES[name].system


def test_a_plain_prompt_has_nothing_to_tell_its_turns_by() -> None:
    cases = [case for case in GOLDEN if case["template"] == "plain"]
    assert len(cases) == 6
    for case in cases:
        marks = case["expected"].count("<image>")
        assert read(split(case["expected"], PICTURES[:marks])) is None


# Neither separators nor roles can be put together from these, nor from what stands around them.
WORDS = st.text(st.sampled_from("abXY \n.,?!é好😀{}%"), min_size=1, max_size=20).filter(
    lambda text: bool(text.strip())
)
TURNS = st.lists(st.tuples(WORDS, st.integers(0, 2), WORDS), max_size=3)


@pytest.mark.parametrize("name", READABLE)
@given(system=st.none() | WORDS, turns=TURNS, asked=WORDS, shown=st.integers(0, 2))
@settings(max_examples=40)
def test_what_a_template_writes_is_read_back(
    name: str, system: str | None, turns: list[tuple[str, int, str]], asked: str, shown: int
) -> None:
    template, pictures = TEMPLATES[name], iter(PICTURES)
    messages: list[ChatMessage] = [] if system is None else [say("system", system)]
    for question, count, answer in turns:
        messages.append(say("user", question, *(next(pictures) for _ in range(count))))
        messages.append(say("assistant", answer))
    messages.append(say("user", asked, *(next(pictures) for _ in range(shown))))
    conversation = tuple(messages)
    shas = [ImagePart(sha256=sha) for message in conversation for sha in message.images]
    found = read(split(rendered(template, conversation), shas))
    assert found is not None
    assert found[1] == trimmed(template, conversation)
    if system is None:
        assert found[0].system == template.system


@pytest.mark.parametrize("name", READABLE)
def test_several_messages_of_one_role_are_read_back(name: str) -> None:
    messages = (say("user", "One."), say("user", "Two.", PICTURES[0]), say("assistant", "Three."))
    messages += (say("assistant", "Four."), say("user", "Five?"))
    found = read(split(rendered(TEMPLATES[name], messages), PICTURES[:1]))
    assert found is not None
    assert found[1] == messages


def test_fastchats_vicuna_is_read_with_its_pictures_in_front_of_the_text() -> None:
    text = f"{VICUNA} USER: <image><image>Compare. ASSISTANT: Same.</s>USER: Sure? ASSISTANT:"
    found = read(split(text, PICTURES[:2]))
    assert found is not None
    assert found[0].name == "vicuna_v1"
    assert found[1] == (
        say("user", "Compare.", *PICTURES[:2]),
        say("assistant", "Same."),
        say("user", "Sure?"),
    )


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("USER: Hi ASSISTANT:", "llava_v1"),
        ("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", "internvl2_5"),
        ("<s>[INST] Hi [/INST]", "llama_2"),
        ("[INST] Hi [/INST]", "mistral_instruct"),
    ],
)
def test_a_system_message_may_be_left_out(text: str, name: str) -> None:
    found = read(split(text, ()))
    assert found is not None
    assert (found[0].name, found[1]) == (name, (say("user", "Hi"),))


def test_pictures_within_a_text_stay_where_they_are() -> None:
    found = read(split(f"{VICUNA} USER: Is <image> like <image>? ASSISTANT:", PICTURES[:2]))
    assert found is not None
    (message,) = found[1]
    is_, like, end = (TextPart(text=text) for text in ("Is ", " like ", "?"))
    assert message.content == (is_, PICTURES[0], like, PICTURES[1], end)


def test_a_text_with_any_character_is_read() -> None:
    text = "".join(map(chr, range(0xE000, 0xE010)))
    found = read(split(f"{VICUNA} USER: <image>\n{text} ASSISTANT:", PICTURES[:1]))
    assert found is not None
    assert found[1] == (say("user", text, PICTURES[0]),)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Once upon a time",
        f"{VICUNA} ASSISTANT:",
        f"{VICUNA} USER: Hi",
        f"{VICUNA} USER: Hi ASSISTANT: Well,",
        f"{VICUNA} USER: Hi ASSISTANT: Well,</s>",
        "[INST] Hi [/INST] Well, </s>",
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n<think>\n",
        "Human: Hi\nAssistant:",
        "USER: a ASSISTANT: b USER: c ASSISTANT: ",
    ],
)
def test_other_text_is_not_read(text: str) -> None:
    assert read(split(text, ())) is None


def test_a_long_text_that_is_nearly_a_prompt_is_soon_given_up() -> None:
    text = f"{VICUNA} USER: " + "USER: a ASSISTANT " * 50_000 + "</s>ASSISTANT:"
    assert read(split(text, ())) is None
