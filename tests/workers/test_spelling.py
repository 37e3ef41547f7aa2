"""Tokens are spelled in the bytes that they add to an answer."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models

from tests.workers.checkpoints import byte_level_tokenizer, metaspace_tokenizer
from workers.spelling import Spelling

BYTE_LEVEL = byte_level_tokenizer().backend_tokenizer
METASPACE = metaspace_tokenizer("never", "").backend_tokenizer
TEXTS = st.text(st.sampled_from("abc xyz.\n\t éß你好😀🎉~\x00\xad"), max_size=40)


@pytest.mark.parametrize("tokenizer", [BYTE_LEVEL, METASPACE], ids=["byte level", "metaspace"])
@given(text=TEXTS)
def test_the_tokens_of_a_text_spell_its_bytes(tokenizer: Any, text: str) -> None:
    spell = Spelling(tokenizer)
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert b"".join(map(spell, ids)) == text.encode()


def test_half_a_character_is_spelled_in_its_bytes() -> None:
    for tokenizer in (BYTE_LEVEL, METASPACE):
        spell = Spelling(tokenizer)
        ids = tokenizer.encode("\U0001f9d9", add_special_tokens=False).ids
        pieces = [spell(token_id) for token_id in ids]
        assert b"".join(pieces).strip() == "\U0001f9d9".encode()
        assert pieces[-1] == b"\x99"


def test_control_tokens_are_spelled_as_they_are_written() -> None:
    spell = Spelling(BYTE_LEVEL)
    assert spell(BYTE_LEVEL.token_to_id("<|im_end|>")) == b"<|im_end|>"
    assert spell(BYTE_LEVEL.token_to_id("<think>")) == b"<think>"


def test_an_id_that_pads_the_vocabulary_has_no_bytes() -> None:
    assert Spelling(BYTE_LEVEL)(100_000) == b""


def test_other_vocabularies_are_spelled_as_their_decoder_reads_them() -> None:
    pieces = Tokenizer(models.WordPiece({"[UNK]": 0, "wo": 1, "##rd": 2}, unk_token="[UNK]"))
    pieces.decoder = decoders.WordPiece()
    assert [Spelling(pieces)(token_id) for token_id in (1, 2)] == [b"wo", b"##rd"]
    bare = Tokenizer(models.WordLevel({"[UNK]": 0, "word": 1}, unk_token="[UNK]"))
    assert Spelling(bare)(1) == b"word"
