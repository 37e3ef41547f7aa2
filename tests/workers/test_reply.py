"""JSON of other servers, as far as it can do harm."""

from __future__ import annotations

import json

import pytest

from workers.reply import parse


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        (b'{"a": [1, "\xc3\xa9"]}', {"a": [1, "é"]}),
        (rb'"\ud83d\ude42 \uD83D\uDE42"', "🙂 🙂"),
        (rb'{"\ud83d": ["a\ude42", {"b": "\uD83Dc"}]}', {"\ufffd": ["a\ufffd", {"b": "\ufffdc"}]}),
        (rb'["\\ud83d", "\ud55c"]', [r"\ud83d", "\ud55c"]),
    ],
)
def test_what_is_parsed_can_be_written(raw: bytes, value: object) -> None:
    assert parse(raw) == value
    json.dumps(parse(raw), ensure_ascii=False).encode()


@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b'"\xed\xa0\xbd"', b'"\xff"', '"a"'.encode("utf-16"), b"[" * 100_000, b"9" * 5000],
)
def test_what_cannot_be_parsed_is_a_value_error(raw: bytes) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        parse(raw)
