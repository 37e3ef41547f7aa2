"""SentencePiece models of the BPE kind as `tokenizers` has them, without SentencePiece itself.

Reads as much of the file, a protocol buffer, as such a tokenizer needs: pieces, scores and kinds of
them, and two settings. What it cannot do exactly it refuses.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tokenizers import Tokenizer, decoders, models, normalizers, processors

from broker.errors import ConfigurationError

_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3
"""Fields of the file; their own fields are named where they are read."""
_BPE = 2
_NORMAL, _USER_DEFINED, _BYTE = 1, 4, 6
"""Kinds of pieces."""


@dataclass(frozen=True, slots=True)
class _Piece:
    text: str
    score: float
    kind: int


def read_model(
    data: bytes, renamed: Mapping[int, str] | None = None, starts_with: str | None = None
) -> Tokenizer:
    """Make a tokenizer of the bytes of a `tokenizer.model`.

    Args:
        data: the file.
        renamed: other texts for some of its ids; ids that it does not have are ignored.
        starts_with: a piece that comes before every text.

    Raises:
        ConfigurationError: it is no SentencePiece model, or none of the BPE kind, or it rewrites
            texts before it looks at them.
    """
    try:
        fields = list(_fields(data))
        pieces = [
            _piece(value)
            for number, value in fields
            if number == _PIECES and isinstance(value, bytes)
        ]
        trainer = _merged(fields, _TRAINER)
        normalizer = _merged(fields, _NORMALIZER)
    except (LookupError, ValueError, struct.error) as error:
        raise ConfigurationError("tokenizer.model: this is no SentencePiece model") from error
    if trainer.get(3, 1) != _BPE or normalizer.get(2):
        raise ConfigurationError(
            "tokenizer.model: only SentencePiece models of the BPE kind that leave texts as they "
            "are can be read. Save the tokenizer as tokenizer.json beside it."
        )
    names = [(renamed or {}).get(i, piece.text) for i, piece in enumerate(pieces)]
    tokenizer = Tokenizer(
        models.BPE(
            {name: i for i, name in enumerate(names)},
            _merges([p for p, name in zip(pieces, names, strict=True) if p.text == name]),
            unk_token=names[0],
            fuse_unk=True,
            byte_fallback=any(piece.kind == _BYTE for piece in pieces),
        )
    )
    blank = [normalizers.Prepend("▁")] if normalizer.get(3, 1) else []
    tokenizer.normalizer = normalizers.Sequence([*blank, normalizers.Replace(" ", "▁")])
    tokenizer.decoder = _decoder(bool(blank))
    if starts_with is not None:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{starts_with} $A",
            pair=f"{starts_with} $A {starts_with} $B",
            special_tokens=[(starts_with, names.index(starts_with))],
        )
    defined = [n for n, piece in zip(names, pieces, strict=True) if piece.kind == _USER_DEFINED]
    tokenizer.add_tokens(defined)
    return tokenizer


def _decoder(strips: bool) -> decoders.Decoder:
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    return decoders.Sequence([*parts, decoders.Strip(" ", 1, 0)] if strips else parts)


def _merges(pieces: list[_Piece]) -> list[tuple[str, str]]:
    """Write every way to put a piece together from two others; the best pieces' first.

    SentencePiece knows scores only, and joins the neighbours whose union has the best one.
    """
    known = {piece.text: i for i, piece in enumerate(pieces) if piece.kind == _NORMAL}
    ways: list[tuple[float, int, int, str, str]] = []
    for piece in pieces:
        if piece.kind != _NORMAL:
            continue
        for cut in range(1, len(piece.text)):
            left, right = piece.text[:cut], piece.text[cut:]
            if left in known and right in known:
                ways.append((-piece.score, known[left], known[right], left, right))
    return [(left, right) for *_, left, right in sorted(ways)]


def _piece(data: bytes) -> _Piece:
    """Read a piece: 1 is its text, 2 its score, 3 its kind."""
    values = dict(_fields(data))
    text, score = values[1], values.get(2, bytes(4))
    kind = values.get(3, _NORMAL)
    if not (isinstance(text, bytes) and isinstance(score, bytes) and isinstance(kind, int)):
        raise ValueError("this is no piece")
    return _Piece(text.decode(), struct.unpack("<f", score)[0], kind)


def _merged(fields: list[tuple[int, int | bytes]], number: int) -> dict[int, int | bytes]:
    """Read a message that is a field: in the trainer's 3 is the kind of model.

    In the normalizer's 2 is a table of what it rewrites, and 3 whether a blank is put in front.
    """
    return {
        key: value
        for found, data in fields
        if found == number and isinstance(data, bytes)
        for key, value in _fields(data)
    }


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Walk through a protocol buffer's fields: their numbers, and what is in them."""
    place = 0
    while place < len(data):
        tag, place = _varint(data, place)
        kind = tag & 7
        value: int | bytes
        if kind == 0:
            value, place = _varint(data, place)
        elif kind in (1, 2, 5):
            size, place = _varint(data, place) if kind == 2 else ({1: 8, 5: 4}[kind], place)
            value, place = data[place : place + size], place + size
        else:
            raise ValueError(f"unknown kind of field: {kind}")
        if place > len(data):
            raise ValueError("the file ends within a field")
        yield tag >> 3, value


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[place]
        value |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return value, place
