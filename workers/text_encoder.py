"""Text to ids, such that only a template's own text can become a control token.

Owns the copies of a checkpoint's tokenizer that know no control tokens. Stretches between control
tokens, template text and people's text together, are encoded by these copies, so that the ids of
ordinary text are those of the usual way. Knows nothing of messages and templates.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tokenizers import AddedToken, Tokenizer
from transformers import PreTrainedTokenizerBase

from broker.errors import ConfigurationError, InvalidRequest


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of a rendered prompt, and whether people wrote it."""

    text: str
    from_people: bool = False


@dataclass(frozen=True, slots=True)
class _Stretch:
    """Text between control tokens, or a control token."""

    text: str
    control: bool = False


class TextEncoder:
    """Encodes template text with control tokens, and people's text without."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, image_token: str | None) -> None:
        if not tokenizer.is_fast:
            raise ConfigurationError("the checkpoint's tokenizer has no tokenizer.json form")
        backend: Tokenizer = tokenizer.backend_tokenizer
        added = backend.get_added_tokens_decoder().items()
        self._controls: dict[str, tuple[int, AddedToken]] = {
            token.content: (token_id, token)
            for token_id, token in added
            if not token.content.isspace()
        }
        self._control_ids = frozenset(token_id for token_id, _ in self._controls.values())
        self._image_token = image_token
        names = {*self._controls, *filter(None, [image_token])}
        longest_first = sorted(names, key=len, reverse=True)
        self._control = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
        self._first = _without_controls(backend, at_start=True)
        self._later = _without_controls(backend, at_start=False)
        # A copy numbers the tokens that are not in its vocabulary anew.
        self._own_ids = {
            self._first.token_to_id(token.content): token_id
            for token_id, token in added
            if token.content.isspace()
        }
        self._prefix_ids = _prefix_ids(backend)
        self.prefix = "".join(backend.id_to_token(i) or "" for i in self._prefix_ids)

    def control_at(self, text: str) -> int | None:
        """Return the id of the control token that a text begins with."""
        found = self._control.match(text.lstrip())
        return self._controls[found[0]][0] if found and found[0] in self._controls else None

    def has_control(self, text: str) -> bool:
        """Whether a control token stands in a text."""
        return self._control.search(text) is not None

    def controls_beside(self, before: str, after: str) -> tuple[str, str]:
        """Return the control tokens that the first text ends with, and the second begins with."""
        some = f"(?:{self._control.pattern})*"
        ending, beginning = re.search(rf"{some}\Z", before), re.match(some, after)
        assert ending is not None and beginning is not None
        return ending[0], beginning[0]

    def encode(self, pieces: Iterable[Piece], prefixed: bool = False) -> list[list[int]]:
        """Encode pieces into the runs of ids between pictures.

        With `prefixed`, the tokenizer's own ids (`prefix`) come first, as before any text: other
        than control tokens that a template writes, they leave the text its first blank.
        """
        runs: list[list[int]] = [self._prefix_ids[:] if prefixed else []]
        started = False
        for stretch in self._trim(list(self._stretches(pieces))):
            if not stretch.control:
                runs[-1] += self._plain(stretch.text, started)
            elif stretch.text == self._image_token:
                runs.append([])
            else:
                runs[-1].append(self._controls[stretch.text][0])
            started = started or bool(stretch.text)
        return runs

    def _stretches(self, pieces: Iterable[Piece]) -> Iterator[_Stretch]:
        """Split at the control tokens that the template wrote; text and controls alternate."""
        pending = ""
        for piece in pieces:
            place = 0
            for found in () if piece.from_people else self._control.finditer(piece.text):
                yield _Stretch(pending + piece.text[place : found.start()])
                yield _Stretch(found[0], control=True)
                pending, place = "", found.end()
            pending += piece.text[place:]
        yield _Stretch(pending)

    def _trim(self, stretches: list[_Stretch]) -> Iterator[_Stretch]:
        """Drop blanks that a control token swallows on its left or right, as tokenizers do."""
        for place, stretch in enumerate(stretches):
            text = stretch.text
            if not stretch.control:
                if place and self._swallows(stretches[place - 1], "rstrip"):
                    text = text.lstrip()
                if place + 1 < len(stretches) and self._swallows(stretches[place + 1], "lstrip"):
                    text = text.rstrip()
            yield _Stretch(text, stretch.control)

    def _swallows(self, control: _Stretch, side: str) -> bool:
        token = self._controls.get(control.text)
        return token is not None and bool(getattr(token[1], side))

    def _plain(self, text: str, started: bool) -> list[int]:
        if not text:
            return []
        ids = self._ids(text, started)
        if self._control_ids.isdisjoint(ids):
            return ids
        # The model's own vocabulary spells a control token in one piece: spell it in two.
        cuts = [found.start() + 1 for found in self._control.finditer(text)]
        ids = []
        for start, stop in zip([0, *cuts], [*cuts, len(text)], strict=True):
            ids += self._ids(text[start:stop], started or start > 0)
        if self._control_ids.isdisjoint(ids):
            return ids
        raise InvalidRequest("The text contains a control token of the model.", param="messages")

    def _ids(self, text: str, started: bool) -> list[int]:
        tokenizer = self._later if started else self._first
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        return [self._own_ids.get(token_id, token_id) for token_id in ids]


def _without_controls(backend: Tokenizer, *, at_start: bool) -> Tokenizer:
    """Copy a tokenizer without its control tokens; whitespace ones (Gemma has such) stay.

    SentencePiece-style tokenizers may put a blank before the first word of a text, and only there.
    """
    state = json.loads(backend.to_str())
    state["added_tokens"] = [t for t in state["added_tokens"] if t["content"].isspace()]
    state["post_processor"] = state["truncation"] = state["padding"] = None
    if not at_start:
        pre = state["pre_tokenizer"] or {}
        for step in (pre, *pre.get("pretokenizers", ())):
            if step.get("prepend_scheme") == "first":
                step["prepend_scheme"] = "never"
    return Tokenizer.from_str(json.dumps(state))


def _prefix_ids(backend: Tokenizer) -> list[int]:
    """Return the control tokens that the tokenizer itself puts before a text."""
    encoding = backend.encode("a")
    ids: list[int] = encoding.ids[: encoding.special_tokens_mask.index(0)]
    return ids
