"""What `/worker_generate_stream` takes: the payloads of three frontends, and what they ask for.

They are told apart by their form, since none of them says whose it is:

* InternVL's `prompt` is a list of role messages with base64 `image` lists;
* FastChat's is a string beside at least one field that LLaVA does not have (`FASTCHAT_FIELDS`);
  every FastChat client sends `echo` and `stop_token_ids`;
* LLaVA's is a string without any of these. InternVL's LLaVA variant adds `max_input_tiles`.

A string is a ready prompt, each picture of `images` standing where the prompt has its mark.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, TypeAdapter, ValidationError

from broker.errors import InvalidRequest, RequestTooLarge
from broker.messages import (
    MAX_INPUT_TILES,
    ChatMessage,
    ImagePart,
    Part,
    SamplingParams,
    TextPart,
)
from frontend.api.content import MAX_TEXT_LENGTH, read_base64, read_data_uri
from frontend.api.errors import Unsupported
from frontend.api.schemas import (
    MAX_MESSAGES,
    MAX_STOP_LENGTH,
    MAX_STOP_TOKENS,
    MAX_TOKENS,
    Strict,
    explain,
    repeatable,
)
from frontend.service import Service

MARK = "<image>"
FASTCHAT_MARK = "$$<image>$$"
GREEDY_BELOW = 1e-3
"""Temperatures below this draw the likeliest token, as in LLaVA's and FastChat's workers."""

DEFAULT_MAX_NEW_TOKENS = 256
MAX_STOPS = 16
MAX_PATH_LENGTH = 64
_SEEDS = 2**63

FASTCHAT_FIELDS = frozenset(
    (
        "echo", "logprobs", "top_k", "stop_token_ids", "presence_penalty", "frequency_penalty",
        "repetition_penalty", "best_of", "use_beam_search", "seed",
    )
)  # fmt: skip

_FASTCHAT_MARKS = re.compile(r"((?:\$\$<image>\$\$)+)((?:<image>\n)*)")

_TokenId = Annotated[int, Field(ge=0, le=MAX_TOKENS)]
_Penalty = Annotated[float, Field(ge=-2, le=2)]
_Stop = Annotated[str, Field(max_length=MAX_STOP_LENGTH)]
_Cell = Annotated[str, Field(min_length=1, max_length=64)]


class _Payload(Strict):
    """What all three have in common."""

    model: Annotated[str, Field(min_length=1, max_length=256)]
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    max_new_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS)] | None = None
    max_input_tiles: Annotated[int, Field(ge=1, le=MAX_INPUT_TILES)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=2)] | None = None
    heliograph_path: Annotated[list[_Cell], Field(max_length=MAX_PATH_LENGTH)] | None = None

    echoes = False
    """Whether each chunk's text begins with the prompt."""

    tells_usage = False
    """Whether the last chunk says why the answer ended, and what it took."""

    @property
    def ready_prompt(self) -> str:
        """The prompt that an echo repeats."""
        return ""

    @property
    def sampling(self) -> SamplingParams:
        """The sampling parameters; as in the originals, a top_p of 0 draws the likeliest token."""
        given = {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "max_input_tiles": self.max_input_tiles,
            "repetition_penalty": self.repetition_penalty,
            **self._more_sampling(),
        }
        if self.top_p == 0 or (self.temperature or 1.0) < GREEDY_BELOW or self.temperature == 0:
            given |= {"temperature": 0.0, "top_p": None}
        known = {name: value for name, value in given.items() if value is not None}
        return SamplingParams(max_tokens=self.max_new_tokens or DEFAULT_MAX_NEW_TOKENS, **known)

    def _more_sampling(self) -> dict[str, Any]:
        return {}

    def messages(self, service: Service) -> list[ChatMessage]:
        """Translate what is asked, and store its pictures."""
        raise NotImplementedError
