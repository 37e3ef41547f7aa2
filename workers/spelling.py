"""The bytes that each token stands for, so that a token can be told even if it is half a character.

Joined, an answer's tokens give the answer's bytes, up to the blank that some tokenizers put before
the first word. Knows tokenizers' vocabularies, nothing of sequences.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from tokenizers import Tokenizer

_BYTE = re.compile("<0x([0-9A-F]{2})>")
_BLANK = "▁"


class Spelling:
    """Spells the tokens of one tokenizer. Safe to use from several threads."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._added = {
            token_id: token.content.encode()
            for token_id, token in tokenizer.get_added_tokens_decoder().items()
        }
        kinds = set(_decoders(json.loads(tokenizer.to_str())["decoder"]))
        self._bytes = _byte_letters() if "ByteLevel" in kinds else {}
        self._falls_back = "ByteFallback" in kinds
        self._marks_blanks = bool(kinds & {"Metaspace", "Replace"})

    def __call__(self, token_id: int) -> bytes:
        """Return the token's bytes; none for an id that only pads the vocabulary."""
        if token_id in self._added:
            return self._added[token_id]
        piece = self._tokenizer.id_to_token(token_id)
        if piece is None:
            return b""
        if self._bytes:
            return b"".join(self._bytes.get(letter) or letter.encode() for letter in piece)
        if self._falls_back and (found := _BYTE.fullmatch(piece)):
            return bytes.fromhex(found[1])
        if self._marks_blanks:
            return str(piece).replace(_BLANK, " ").encode()
        return str(self._tokenizer.decode([token_id], skip_special_tokens=False)).encode()


def _decoders(decoder: dict[str, Any] | None) -> Iterator[str]:
    """Kinds of the decoders that a tokenizer's decoder consists of."""
    if decoder is not None:
        yield decoder["type"]
        for part in decoder.get("decoders", ()):
            yield from _decoders(part)


def _byte_letters() -> dict[str, bytes]:
    """The letter by which byte-level vocabularies write each byte, GPT-2's table.

    A printable Latin-1 character stands for itself; the other bytes, in order, have the letters
    from U+0100 on.
    """
    itself = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in itself]
    letters = {chr(byte): bytes([byte]) for byte in itself}
    return letters | {chr(0x100 + place): bytes([byte]) for place, byte in enumerate(others)}
