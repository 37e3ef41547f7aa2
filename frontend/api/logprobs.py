"""OpenAI's `logprobs` object, from what the events of an answer carry.

A token's text is its bytes read as UTF-8; a token that holds half a character shows U+FFFD there,
and its true bytes beside it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from broker.events import Likely, TokenLogprob


def logprobs_object(logprobs: Iterable[TokenLogprob]) -> dict[str, Any]:
    """The object of a choice or of a chunk's choice, one entry per token."""
    return {"content": [_entry(each) for each in logprobs], "refusal": None}


def _entry(each: TokenLogprob) -> dict[str, Any]:
    return _named(each) | {"top_logprobs": [_named(likely) for likely in each.top]}


def _named(each: TokenLogprob | Likely) -> dict[str, Any]:
    text = each.token.decode(errors="replace")
    return {"token": text, "logprob": each.logprob, "bytes": list(each.token)}
