"""What `/worker_generate_stream` takes: one schema for the payloads of three kinds of frontends.

They are told apart by their form, since none of them says whose it is:

* InternVL's `prompt` is a list of role messages with base64 `image` lists;
* FastChat's is a string beside at least one field that LLaVA's clients never send
  (`FASTCHAT_FIELDS`; all of FastChat's clients send `echo` and `stop_token_ids`);
* LLaVA's is a string without any of these.

What the prompt means is left to `payload_content`; whether the model exists to the service.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, ValidationError

from broker import cell
from broker.messages import MAX_INPUT_TILES, SamplingParams
from frontend.api.errors import Unsupported
from frontend.api.schemas import (
    MAX_MESSAGES,
    MAX_PARTS,
    MAX_STOP_LENGTH,
    MAX_STOP_TOKENS,
    MAX_TOKENS,
    Strict,
    explain,
    repeatable,
    text_tag,
)

FASTCHAT_FIELDS: Final = frozenset(
    {
        "echo", "logprobs", "top_k", "stop_token_ids", "presence_penalty", "frequency_penalty",
        "repetition_penalty", "best_of", "use_beam_search", "seed",
    }
)  # fmt: skip

GREEDY_BELOW: Final = 1e-3
"""Temperatures below this draw the likeliest token, as in LLaVA's worker."""

DEFAULT_MAX_NEW_TOKENS: Final = 256
MAX_STOPS: Final = 16
MAX_PATH: Final = 64
_SEEDS = 2**63

Form = Literal["llava", "internvl", "fastchat"]


def _as_list(path: Any) -> Any:
    """Take a path as its header has it, too."""
    return list(cell.read_path(path)) if isinstance(path, str) else path


_Texts = Annotated[list[str], Field(max_length=MAX_PARTS)]
_Stop = Annotated[str, Field(max_length=MAX_STOP_LENGTH)]
_Stops = Annotated[list[_Stop], Field(max_length=MAX_STOPS)]
_TokenId = Annotated[int, Field(ge=0, le=MAX_TOKENS)]
_Penalty = Annotated[float, Field(ge=-2, le=2)]
# Goes on to other cells as a header, so it must be nothing but an id.
_Cell = Annotated[str, Field(pattern="^[0-9A-Za-z]{1,64}$")]
_Path = Annotated[list[_Cell], Field(max_length=MAX_PATH), BeforeValidator(_as_list)]


class RoleMessage(Strict):
    """One turn of InternVL's `prompt`."""

    role: Literal["system", "user", "assistant"]
    content: str | None = None
    image: _Texts | None = None


_Turns = Annotated[list[RoleMessage], Field(min_length=1, max_length=MAX_MESSAGES)]


class Payload(Strict):
    """Body of /worker_generate_stream and /worker_generate."""

    model: Annotated[str, Field(min_length=1, max_length=256)]
    prompt: Annotated[
        Annotated[str, Tag("<text>")] | Annotated[_Turns, Tag("<list>")], Discriminator(text_tag)
    ]
    images: _Texts | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=MAX_TOKENS)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=2)] | None = None
    presence_penalty: _Penalty | None = None
    frequency_penalty: _Penalty | None = None
    seed: Annotated[int, Field(ge=-_SEEDS, lt=_SEEDS)] | None = None
    max_new_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS)] | None = None
    max_input_tiles: Annotated[int, Field(ge=1, le=MAX_INPUT_TILES)] | None = None
    stop: (
        Annotated[Annotated[_Stop, Tag("<text>")] | Annotated[_Stops, Tag("<list>")],
                  Discriminator(text_tag)]
        | None
    ) = None  # fmt: skip
    stop_token_ids: Annotated[list[_TokenId], Field(max_length=MAX_STOP_TOKENS)] | None = None
    echo: bool | None = None
    logprobs: int | None = None
    best_of: int | None = None
    use_beam_search: bool | None = None
    heliograph_path: _Path | None = None

    @property
    def form(self) -> Form:
        """Whose payload it is."""
        if not isinstance(self.prompt, str):
            return "internvl"
        return "fastchat" if FASTCHAT_FIELDS & self.model_fields_set else "llava"

    @property
    def tells_outcome(self) -> bool:
        """Whether the last chunk says why the answer ended: FastChat's does, and a cell's."""
        return self.form == "fastchat" or self.heliograph_path is not None

    @property
    def echoed(self) -> str:
        """What each chunk's text begins with: the prompt as it was sent, or nothing."""
        return "" if not isinstance(self.prompt, str) or self.echo is False else self.prompt

    @property
    def sampling(self) -> SamplingParams:
        """The sampling parameters; as at the originals, a top_p of 0 is greedy."""
        greedy = self.top_p == 0 or (
            self.temperature is not None and self.temperature < GREEDY_BELOW
        )
        given = {name: getattr(self, name) for name in _PASSED_ON}
        given |= {
            "temperature": 0.0 if greedy else self.temperature,
            "top_p": None if greedy else self.top_p,
            "top_k": max(self.top_k or 0, 0),
            "max_tokens": self.max_new_tokens or DEFAULT_MAX_NEW_TOKENS,
            "seed": None if self.seed is None else repeatable(self.seed),
            "stop": self._stops,
        }
        return SamplingParams(**{name: value for name, value in given.items() if value is not None})

    @property
    def _stops(self) -> tuple[str, ...]:
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return tuple(filter(None, stops))


_PASSED_ON = (
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "stop_token_ids",
    "max_input_tiles",
)


def read_payload(value: dict[str, Any]) -> Payload:
    """Read a body that is already known to be a JSON object.

    Raises:
        InvalidRequest: a field is missing, of a wrong type or out of range.
        Unsupported: it asks for something that is not offered here.
    """
    try:
        payload = Payload.model_validate(value)
    except ValidationError as error:
        raise explain(error.errors(include_url=False)[0]) from None
    _refuse_unsupported(payload)
    return payload


def _refuse_unsupported(payload: Payload) -> None:
    asked = {
        "logprobs": payload.logprobs is not None,
        "best_of": payload.best_of not in (None, 1),
        "use_beam_search": bool(payload.use_beam_search),
    }
    for name, is_asked in asked.items():
        if is_asked:
            raise Unsupported(f"{name} is not supported on this route. Leave it out.", param=name)
