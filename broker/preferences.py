"""Pairs of a better and a worse answer to the same conversation, as preference training wants them.

They come from battles that one side won, and from answers to the same conversation of which one
got an upvote and another a downvote, as after Regenerate. Of several votes on an answer the last
counts.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Final

import redis

from broker import images, keys, pages
from broker.exports import SIDES, Row, left_out, messages_of
from broker.messages import ChatMessage, TextPart, pictures

OPEN_PROMPTS: Final = 10_000
"""Conversations that wait for a second vote; beyond that the one least recently voted on goes."""

MAX_ANSWERS: Final = 16
"""Answers to one conversation that are paired; later ones are not."""

Votes = dict[str, tuple[str, pages.EntryId]]
"""The last vote on each job, and its entry."""


def pairs(client: redis.Redis, *, open_prompts: int = OPEN_PROMPTS) -> Iterator[Row]:
    """All pairs: `prompt`, `chosen` and `rejected` are lists of messages, `images` SHA-256s.

    Each picture of the prompt is a part `{"type": "image"}` and has its place in `images`. `jobs`
    are those of the chosen and of the rejected answer. Battles come in the order of time, pairs
    from votes when nothing more can be said about their conversation.
    """
    waiting: OrderedDict[str, Votes] = OrderedDict()
    for entry in pages.walk(client, keys.FEEDBACK_LOG):
        try:
            kind = entry.fields["vote"]
            if kind in SIDES:
                yield from _of_battle(entry.fields, kind)
            elif kind in ("upvote", "downvote"):
                _note(waiting, entry, kind)
        except (ValueError, KeyError) as error:
            left_out(entry, error)
        if len(waiting) > open_prompts:
            yield from _of_votes(client, waiting.popitem(last=False)[1])
    for votes in waiting.values():
        yield from _of_votes(client, votes)


def _note(waiting: OrderedDict[str, Votes], entry: pages.Entry, kind: str) -> None:
    digest = images.digest(entry.fields["messages"].encode())
    votes = waiting.setdefault(digest, {})
    waiting.move_to_end(digest)
    if entry.fields["job"] in votes or len(votes) < MAX_ANSWERS:
        votes[entry.fields["job"]] = kind, entry.id


def _of_battle(fields: dict[str, str], winner: str) -> Iterator[Row]:
    """The pair of a battle; none if the conversations differ before the last message."""
    loser = SIDES[winner == "left"]
    if fields["left_messages"] == fields["right_messages"]:
        won, lost = (
            {name: fields[f"{side}_{name}"] for name in ("job", "messages", "answer")}
            for side in (winner, loser)
        )
        yield from _pair(won, lost)


def _of_votes(client: redis.Redis, votes: Votes) -> Iterator[Row]:
    better, worse = (
        [entry_id for kind, entry_id in votes.values() if kind == wanted]
        for wanted in ("upvote", "downvote")
    )
    for up, down in product(better, worse):
        chosen, rejected = (pages.one(client, keys.FEEDBACK_LOG, each) for each in (up, down))
        if chosen is None or rejected is None:  # an operator trimmed the log since
            continue
        try:
            yield from _pair(chosen.fields, rejected.fields)
        except (ValueError, KeyError) as error:
            left_out(chosen, error)


def _pair(chosen: dict[str, str], rejected: dict[str, str]) -> Iterator[Row]:
    """One pair; none if an answer is not known, or both say the same."""
    answers = chosen["answer"], rejected["answer"]
    if not all(answers) or answers[0] == answers[1]:
        return
    messages = messages_of(chosen["messages"])
    yield {
        "prompt": [_message(message) for message in messages],
        "chosen": _answer(answers[0]),
        "rejected": _answer(answers[1]),
        "images": _images(messages),
        "jobs": [chosen["job"], rejected["job"]],
    }


def _message(message: ChatMessage) -> Row:
    content: list[Row] = []
    for part in message.content:
        if isinstance(part, TextPart):
            content.append({"type": "text", "text": part.text})
        else:
            content.extend({"type": "image"} for _ in pictures(part))
    return {"role": message.role, "content": content}


def _answer(text: str) -> list[Row]:
    return [{"role": "assistant", "content": [{"type": "text", "text": text}]}]


def _images(messages: Sequence[ChatMessage]) -> list[str]:
    return [sha for message in messages for sha in message.images]
