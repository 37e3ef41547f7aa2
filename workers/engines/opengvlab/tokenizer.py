"""The tokenizer of an OpenGVLab checkpoint in `tokenizers`' form, whichever files it comes in.

`tokenizer.json`, `vocab.json` with `merges.txt`, or a SentencePiece `tokenizer.model`, this one
with the added tokens of `tokenizer_config.json` over and behind its pieces. Runs none of its code.
"""

from __future__ import annotations

import json
from collections.abc import Container
from pathlib import Path
from typing import Any, cast

import transformers
from tokenizers import AddedToken

from broker.errors import ConfigurationError
from workers.engines.opengvlab.sentencepiece import read_model

IMAGE_TOKENS = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
    "video_token": "</img>",  # they have none: frames of videos are pictures
}
_NAMED = ("bos_token", "eos_token", "unk_token", "pad_token")


def load_tokenizer(folder: Path) -> Any:
    """Load a checkpoint's tokenizer, with the attributes that transformers' processor looks for.

    Raises:
        ConfigurationError: it comes in none of the known forms, or its tokens are not InternVL's.
    """
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    added = _added_tokens(folder, settings)
    if (folder / "tokenizer.json").exists():
        tokenizer = _load(transformers.PreTrainedTokenizerFast, folder)
    elif (folder / "vocab.json").exists():
        tokenizer = _load(transformers.Qwen2Tokenizer, folder)
    elif (folder / "tokenizer.model").exists():
        tokenizer = _from_sentencepiece(folder, settings, added)
    else:
        raise ConfigurationError(
            f"{folder}: no tokenizer; looked for tokenizer.json, vocab.json and tokenizer.model"
        )
    vocabulary = tokenizer.get_vocab()
    for token_id, token in added.items():
        if vocabulary.get(token.content) != token_id:
            raise ConfigurationError(f"{folder}: token {token.content} cannot get id {token_id}")
    return tokenizer


def _load(cls: Any, folder: Path) -> Any:
    _check_tokens(folder, cls.from_pretrained(folder).get_vocab())
    return cls.from_pretrained(folder, extra_special_tokens=IMAGE_TOKENS)


def _check_tokens(folder: Path, vocabulary: Container[str]) -> None:
    for token in IMAGE_TOKENS.values():
        if token not in vocabulary:
            raise ConfigurationError(f"{folder}: its tokenizer has no token {token}")


def _from_sentencepiece(
    folder: Path, settings: dict[str, Any], added: dict[int, AddedToken]
) -> Any:
    _check_tokens(folder, {token.content for token in added.values()})
    backend = read_model(
        (folder / "tokenizer.model").read_bytes(),
        renamed={token_id: token.content for token_id, token in added.items()},
        starts_with=_content(settings.get("bos_token", "<s>"))
        if settings.get("add_bos_token", True)
        else None,
    )
    for _, token in sorted(added.items()):
        backend.add_special_tokens([token]) if token.special else backend.add_tokens([token])
    names = {key: _content(settings[key]) for key in _NAMED if settings.get(key)}
    return cast(Any, transformers.PreTrainedTokenizerFast)(
        tokenizer_object=backend, extra_special_tokens=IMAGE_TOKENS, **names
    )


def _added_tokens(folder: Path, settings: dict[str, Any]) -> dict[int, AddedToken]:
    known: dict[str, dict[str, Any]] = settings.get("added_tokens_decoder", {})
    if not known and (file := folder / "added_tokens.json").exists():
        ids: dict[str, int] = json.loads(file.read_text(encoding="utf-8"))
        known = {str(i): {"content": content, "special": True} for content, i in ids.items()}
    return {int(token_id): AddedToken(**token) for token_id, token in known.items()}


def _content(token: str | dict[str, Any]) -> str:
    return token if isinstance(token, str) else str(token["content"])
