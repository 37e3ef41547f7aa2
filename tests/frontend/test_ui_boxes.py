"""Boxes in answers: read strictly, hidden while they are written, matched with their picture."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.messages import ChatMessage, ImagePart, Part, TextPart, VideoPart
from frontend.ui.boxes import MAX_BOXES, MAX_NAME, Box, Region, picture, plain, regions, split

CIRCLE = Region("red circle", (Box(1, 2, 3, 4),))
A, B, C = ("a" * 64, "b" * 64, "c" * 64)


@pytest.mark.parametrize(
    ("written", "boxes"),
    [
        ("<ref>red circle</ref><box>[[1, 2, 3, 4]]</box>", [(1, 2, 3, 4)]),
        ("<ref>red  circle</ref>\n<box>[[1,2,3,4]]</box>", [(1, 2, 3, 4)]),
        (
            "<ref> red circle </ref><box>[[0, 0, 1000, 1000], [1.5, 2, 3.25, 4]]</box>",
            [(0, 0, 1000, 1000), (1.5, 2, 3.25, 4)],
        ),
        ("<ref>red circle</ref><box>(1,2),(3,4)</box>", [(1, 2, 3, 4)]),
        ("<ref>red circle</ref><box>(1, 2),(3,4),(5,6),(7,8)</box>", [(1, 2, 3, 4), (5, 6, 7, 8)]),
        ("<ref>red circle</ref><box>(1,2),(3,4) (5,6),(7,8)</box>", [(1, 2, 3, 4), (5, 6, 7, 8)]),
        (
            "<|object_ref_start|>red circle<|object_ref_end|><|box_start|>(1,2),(3,4)<|box_end|>",
            [(1, 2, 3, 4)],
        ),
    ],
)
def test_a_region_is_read(written: str, boxes: list[tuple[float, ...]]) -> None:
    region = Region("red circle", tuple(Box(*box) for box in boxes))
    assert split(f"See {written}!") == ["See ", region, "!"]
    assert plain(f"See {written}!") == "See red circle!"


def test_a_box_may_have_no_name() -> None:
    assert regions("<box>[[1,2,3,4]]</box>") == [Region("", (Box(1, 2, 3, 4),))]
    assert regions("<|box_start|>(1,2),(3,4)<|box_end|>") == [Region("", (Box(1, 2, 3, 4),))]


@pytest.mark.parametrize(
    "body",
    [
        "",
        "[]",
        "[[]]",
        "[1, 2, 3, 4]",
        "[[1, 2, 3]]",
        "[[1, 2, 3, 4, 5]]",
        "[[1, 2, 3, 4],]",
        "[[1, 2, 3, 4]",
        "[[1 2 3 4]]",
        "[[-1, 2, 3, 4]]",
        "[[1, 2, 1001, 4]]",
        "[[3, 2, 1, 4]]",
        "[[1, 4, 3, 4]]",
        "[[1e2, 2, 3, 4]]",
        "[[0x1, 2, 3, 4]]",
        "[[nan, 2, 3, 4]]",
        "[[\u0661, \u0662, \u0663, \u0664]]",
        "[[1, 2, 3, __import__('os').abort()]]",
        "[[1, 2, 3, 4]] + [[1, 2, 3, 4]]",
        "(1,2),(3,4),(5,6)",
        "[[1, 2, 3, 4], [9, 9, 8, 8]]",
    ],
)
def test_a_box_of_another_form_stays_text(body: str) -> None:
    answer = f"See <ref>x</ref><box>{body}</box>."
    assert split(answer) == [answer]
    assert plain(answer) == answer


def test_what_is_too_much_stays_text() -> None:
    box = "[1, 2, 3, 4]"
    full = f"<box>[{', '.join([box] * MAX_BOXES)}]</box>"
    more = f"<box>[{box}]</box>"
    assert split(full + more) == [Region("", (Box(1, 2, 3, 4),) * MAX_BOXES), more]
    over = f"<box>[{', '.join([box] * (MAX_BOXES + 1))}]</box>"
    assert split(over) == [over]
    long = f"<ref>{'x' * (MAX_NAME + 1)}</ref>"
    assert split(long + more) == [long, Region("", (Box(1, 2, 3, 4),))]


@pytest.mark.parametrize(
    "hostile",
    [
        "<ref>" * 50_000,
        "<box>" * 50_000,
        "<box>[[" + "1, " * 100_000,
        ("<box>[[" + "[1,2,3,4], " * 300 + "</box>") * 50,
        "<box>" + "(1,2),(3,4) " * 300 + "x</box>",
        ("<box>" + " " * 3990 + "</box>") * 50,
        "<ref>x</ref><box>" * 10_000,
        "Image-1 " * 30_000 + "<box>[[1,2,3,4]]</box>",
    ],
)
def test_no_text_takes_long(hostile: str) -> None:
    began = time.process_time()
    plain(hostile, growing=True)
    assert time.process_time() - began < 2


GROUNDED = (
    "A <b> and 1 < 2: <ref>red circle</ref><box>[[10, 20, 300, 400], [1,2,3,4]]</box>, "
    "<box>(1,2),(3,4)</box><|object_ref_start|>blue star<|object_ref_end|>"
    "<|box_start|>(5,6),(7,8)<|box_end|> end"
)


def test_a_growing_answer_shows_no_piece_of_a_region() -> None:
    whole = plain(GROUNDED)
    assert whole == "A <b> and 1 < 2: red circle, blue star end"
    seen = [plain(GROUNDED[:n], growing=True) for n in range(len(GROUNDED) + 1)]
    assert all(whole.startswith(shown) for shown in seen)
    assert [len(shown) for shown in seen] == sorted(len(shown) for shown in seen)
    assert seen[-1] == whole


@pytest.mark.parametrize(
    ("answer", "shown"),
    [
        ("a <", "a "),
        ("a <re", "a "),
        ("a <ref>", "a "),
        ("a <ref>ci", "a ci"),
        ("a <ref>ci</re", "a ci"),
        ("a <ref>ci</ref>", "a ci"),
        ("a <ref>ci</ref><box>[[1, ", "a ci"),
        ("a <ref>ci</ref><box>[[1,2,3,4]]</bo", "a ci"),
        ("a <|box_start|>(1", "a "),
        ("a < b", "a < b"),
        ("a <reference", "a <reference"),
        ("a <ref></", "a <ref></"),
        ("a <ref>ci</ref> or", "a <ref>ci</ref> or"),
        ("a <box>[[one", "a <box>[[one"),
        ("a <ref>" + "x" * (MAX_NAME + 1), "a <ref>" + "x" * (MAX_NAME + 1)),
    ],
)
def test_what_cannot_become_a_region_is_shown(answer: str, shown: str) -> None:
    assert plain(answer, growing=True) == shown
    if "<" in shown:
        assert plain(answer) == answer


@given(st.text("<refbox/>[](),.0123456789 |Ié\n", max_size=200) | st.text(max_size=200))
def test_any_text_is_split_without_loss(text: str) -> None:
    parts = split(text)
    texts = [part for part in parts if isinstance(part, str)]
    if len(texts) == len(parts):
        assert "".join(texts) == text
    plain(text, growing=True)


def ask(role: str, *shas: str, text: str = "?") -> ChatMessage:
    parts: list[Part] = [ImagePart(sha256=sha) for sha in shas]
    return ChatMessage(role=role, content=(*parts, TextPart(text=text)))  # type: ignore[arg-type]


def test_a_region_lies_on_the_last_picture_that_the_user_sent() -> None:
    assert picture([ask("user", A)], CIRCLE) == A
    later = [ask("user", A), ask("assistant"), ask("user", B), ask("assistant"), ask("user")]
    assert picture(later, CIRCLE) == B
    assert picture([ask("user", A, B)], CIRCLE) == B
    assert picture([ask("prompt", A)], CIRCLE) == A


def test_a_region_lies_on_the_picture_that_the_answer_names() -> None:
    messages = [ask("user", A, B), ask("assistant"), ask("user", C)]
    answer = (
        "In Image-1: <ref>x</ref><box>[[1,2,3,4]]</box> and <box>[[1,2,3,4]]</box>, "
        "Image-2 and Image-3: <ref>y</ref><box>[[1,2,3,4]]</box>; "
        "Image-2 <box>[[1,2,3,4]]</box> Image-9 <box>[[1,2,3,4]]</box>"
    )
    assert [region.image for region in regions(answer)] == [1, 1, 3, 2, 9]
    assert [picture(messages, region) for region in regions(answer)] == [A, A, C, B, C]


def test_there_may_be_no_picture() -> None:
    film = ChatMessage(role="user", content=(VideoPart(frames=(A,)), TextPart(text="?")))
    assert picture([ask("user")], CIRCLE) is None
    assert picture([film], CIRCLE) is None
    assert picture([ask("user", B), film], CIRCLE) == B
