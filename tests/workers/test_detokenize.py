"""Streamed text is whole, in whole characters, and never shows a piece of a stop string."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.workers.checkpoints import byte_level_tokenizer, metaspace_tokenizer
from workers.detokenize import Detokenizer

BYTE_LEVEL = byte_level_tokenizer()
METASPACE = metaspace_tokenizer("first", "")
WORDY = st.text(st.sampled_from("abc xyz.\n éß你好😀🎉"), max_size=40)


def decode(ids: list[int]) -> str:
    """Byte-level ids to text."""
    return str(BYTE_LEVEL.backend_tokenizer.decode(ids, skip_special_tokens=False))


def decode_metaspace(ids: list[int]) -> str:
    """SentencePiece-style ids to text."""
    return str(METASPACE.backend_tokenizer.decode(ids, skip_special_tokens=False))


def letters(ids: list[int]) -> str:
    """Code points as ids, for tests about stop strings only."""
    return "".join(map(chr, ids))


def stream(
    ids: list[int], decode: Callable[[list[int]], str], stop: tuple[str, ...] = ()
) -> list[str]:
    """The texts of each token and of the end, up to a stop string."""
    detokenizer = Detokenizer(decode, stop)
    shown = []
    for token_id in ids:
        shown.append(detokenizer.push(token_id))
        if detokenizer.stopped:
            return shown
    return [*shown, detokenizer.flush()]


@pytest.mark.parametrize("tokenizer", [BYTE_LEVEL, METASPACE], ids=["byte level", "metaspace"])
@given(text=WORDY)
def test_text_is_streamed_whole_and_in_whole_characters(tokenizer: object, text: str) -> None:
    encoder = tokenizer.backend_tokenizer  # type: ignore[attr-defined]
    ids = encoder.encode(text, add_special_tokens=False).ids
    shown = stream(ids, lambda some: str(encoder.decode(some, skip_special_tokens=False)))
    assert "".join(shown) == encoder.decode(ids, skip_special_tokens=False)
    assert not any("\ufffd" in piece for piece in shown)


@given(ids=st.lists(st.integers(3, 399), max_size=60))
def test_even_invalid_bytes_add_up_to_the_whole_text(ids: list[int]) -> None:
    assert "".join(stream(ids, decode)) == decode(ids)


def test_a_character_is_shown_as_soon_as_its_last_byte_is_there() -> None:
    ids = BYTE_LEVEL.encode("a𓀀b", add_special_tokens=False)
    assert len(ids) == 6
    assert stream(ids, decode) == ["a", "", "", "", "𓀀", "b", ""]


def test_byte_fallback_characters_in_a_row_are_shown_one_by_one() -> None:
    ids = [3 + byte for byte in "我们".encode()]
    assert stream(ids, decode_metaspace) == ["", "", "我", "", "", "们", ""]


def test_an_unfinished_character_is_shown_at_the_end_only() -> None:
    ids = BYTE_LEVEL.encode("a𓀀", add_special_tokens=False)[:-1]
    assert stream(ids, decode)[:-1] == ["a", "", "", ""]
    assert stream(ids, decode)[-1].startswith("\ufffd")


def test_endless_invalid_bytes_are_not_held_back_for_ever() -> None:
    lone = BYTE_LEVEL.encode("𓀀", add_special_tokens=False)[1]
    shown = stream([lone] * 500, decode)
    assert "".join(shown[:20])
    assert "".join(shown) == decode([lone] * 500)


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        ("one STOP two", ("STOP",), "one "),
        ("one STO two", ("STOP",), "one STO two"),
        ("ends with STO", ("STOP",), "ends with STO"),
        ("aaab", ("aab",), "a"),
        ("say hello", ("hello", "el"), "say h"),
        ("first b then a", ("a", "b"), "first "),
        ("nothing", (), "nothing"),
        ("empty", ("",), "empty"),
        ("line\n\nUser: x", ("\nUser:",), "line\n"),
    ],
)
def test_text_ends_before_the_first_stop_string(
    text: str, stop: tuple[str, ...], expected: str
) -> None:
    assert "".join(stream([ord(char) for char in text], letters, stop)) == expected


def test_only_what_may_become_a_stop_string_is_held_back() -> None:
    shown = stream([ord(char) for char in "x<en<end>"], letters, ("<end>",))
    assert shown == ["x", "", "", "", "<en", "", "", "", ""]


@given(text=st.text("ab", max_size=25), stop=st.text("ab", min_size=1, max_size=4))
def test_stop_strings_never_show_however_the_text_is_cut(text: str, stop: str) -> None:
    shown = "".join(stream([ord(char) for char in text], letters, (stop,)))
    assert shown == text.partition(stop)[0]
