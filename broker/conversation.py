"""A chat as a record: its turns, what each answer came to, and what may be changed about it.

Records are never changed, only replaced. How they are kept is `chats`' to know, how they become
prompts the workers'. Pictures stand in the turns by SHA-256.
"""

from __future__ import annotations

import secrets
import textwrap
import time
from abc import abstractmethod
from collections.abc import Callable, Iterable
from typing import ClassVar, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from broker.errors import ChatTooLarge, ErrorBody, InvalidRequest
from broker.events import Claim, Delta, End, Event, EventId, Failed, FinishReason, Timings, Usage
from broker.feedback import Vote
from broker.messages import (
    ChatMessage,
    GenerateRequest,
    ImagePart,
    Part,
    Role,
    SamplingParams,
    TextPart,
)

Kind = Literal["chat", "battle"]
"""What it is called, to people too."""

MAX_TURNS: Final = 200
MAX_TITLE: Final = 80
FIRST_WORDS: Final = 48
"""Letters of the first question that make a title."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Answer(_Record):
    """What a job told of a question, as far as it is known.

    `seen` is the last event that `text` has. Until `finish` or `error` is there it is under way.
    `vote_entry` is that of the vote in `helio:log:feedback`, and the last two say why it was cast.
    """

    job: str
    model: str
    sampling: SamplingParams
    text: str = ""
    seen: str = "0-0"
    worker: str = ""
    finish: FinishReason | None = None
    usage: Usage | None = None
    timings: Timings | None = None
    error: ErrorBody | None = None
    vote: Vote | None = None
    vote_entry: str = ""
    reason: str = ""
    comment: str = ""

    @property
    def has_ended(self) -> bool:
        """Whether no more of it will come."""
        return self.finish is not None or self.error is not None

    def tell(self, events: Iterable[Event]) -> Answer:
        """The answer with events of its job; those that it has already are passed over."""
        told: dict[str, object] = {}
        seen, text = EventId.parse(self.seen), self.text
        for event in (each for each in events if each.id > EventId.parse(self.seen)):
            seen = event.id
            match event:
                case Claim(worker=worker):
                    told["worker"] = worker
                case Delta(text=piece):
                    text += piece
                case End(text=piece, finish_reason=finish, usage=usage, timings=timings):
                    text += piece
                    told |= {"finish": finish, "usage": usage, "timings": timings}
                case Failed(error=error):
                    told["error"] = error
        return self.model_copy(update={"seen": str(seen), "text": text} | told)

    def fail(self, error: ErrorBody) -> Answer:
        """The answer with the reason why no more of it comes, unless it has another end."""
        if self.error or self.finish in ("stop", "length"):
            return self
        return self.model_copy(update={"error": error})


class Turn(_Record):
    """A question and its answer; None if it could not be sent, or was sent on without one."""

    question: ChatMessage
    answer: Answer | None = None


class Kept(_Record):
    """What an owner's chats and battles have in common: one or more conversations and a title.

    `version` counts its changes, 0 is one that is not kept yet.
    """

    kind: ClassVar[Kind]

    id: str
    owner: str
    version: int = 0
    title: str = ""
    share: str = Field(default="", description="token of the link that shows it, empty if none")
    created_s: float = 0.0
    changed_s: float = 0.0

    @property
    @abstractmethod
    def conversations(self) -> tuple[Chat, ...]:
        """Its conversations, of which the first gives the title."""

    @abstractmethod
    def with_each(self, change: Callable[[Chat], Chat]) -> Self:
        """With each conversation changed."""

    @property
    def running(self) -> tuple[Answer, ...]:
        """The answers that are being written."""
        return tuple(chat.under_way for chat in self.conversations if chat.under_way)

    @property
    def images(self) -> tuple[str, ...]:
        """SHA-256 of every picture, in order, repeats included."""
        return tuple(
            sha
            for chat in self.conversations
            for turn in chat.turns
            for sha in turn.question.images
        )

    def fail(self, job: str, error: ErrorBody) -> Self:
        """With the reason why no more of a job's answer comes, if it is a last one."""

        def note(chat: Chat) -> Chat:
            if chat.last is None or chat.last.job != job:
                return chat
            return chat.with_last(chat.last.fail(error))

        return self.with_each(note)

    def with_title(self, title: str) -> Self:
        """With a title of one line; an empty one is made of the first words."""
        line = " ".join(title.split())[:MAX_TITLE]
        return self.model_copy(update={"title": line or self.first_words})

    @property
    def first_words(self) -> str:
        """A title for what has none."""
        turns = self.conversations[0].turns
        text = turns[0].question.text if turns else ""
        return textwrap.shorten(text, FIRST_WORDS, placeholder="…") or "Picture"


class Chat(Kept):
    """A conversation with one model."""

    kind = "chat"

    model: str = ""
    system: str = ""
    sampling: SamplingParams = SamplingParams()
    turns: tuple[Turn, ...] = ()

    @property
    def conversations(self) -> tuple[Chat, ...]:
        """Itself."""
        return (self,)

    def with_each(self, change: Callable[[Chat], Chat]) -> Chat:
        """With its one conversation changed."""
        return change(self)

    @property
    def last(self) -> Answer | None:
        """The answer of the last turn."""
        return self.turns[-1].answer if self.turns else None

    @property
    def under_way(self) -> Answer | None:
        """The last answer while it is being written."""
        return self.last if self.last and not self.last.has_ended else None

    @property
    def messages(self) -> tuple[ChatMessage, ...]:
        """The chat as a model is asked: the system prompt first, no answer without a word."""
        said = [_message("system", self.system)] if self.system else []
        for turn in self.turns:
            said.append(turn.question)
            if turn.answer and turn.answer.text:
                said.append(_message("assistant", turn.answer.text))
        return tuple(said)

    def ask(self, text: str, images: tuple[str, ...] = ()) -> Chat:
        """Add the owner's words and pictures (SHA-256 each); pictures come first.

        A question that was never answered grows instead of being followed by a second one: chat
        templates of several model families refuse two turns of one speaker in a row.

        Raises:
            ChatTooLarge: it has as many turns as it may have.
        """
        parts: list[Part] = [ImagePart(sha256=sha) for sha in images]
        if text:
            parts.append(TextPart(text=text))
        if self.turns and not (self.last and self.last.text):
            waiting = self.turns[-1].question
            gap = (TextPart(text="\n\n"),) if waiting.text and text else ()
            return self._end_with(Turn(question=_user((*waiting.content, *gap, *parts))))
        if len(self.turns) >= MAX_TURNS:
            raise ChatTooLarge(
                f"This chat has {MAX_TURNS} turns, which is the limit. Begin a new one."
            )
        return self.model_copy(update={"turns": (*self.turns, Turn(question=_user(parts)))})

    def ask_again(self) -> Chat:
        """Without the last answer.

        Raises:
            InvalidRequest: there is no question yet.
        """
        return self._end_with(Turn(question=self._turn(len(self.turns) - 1).question))

    def edit(self, place: int, text: str) -> Chat:
        """With other words in the question at `place` (from 0), and nothing after it.

        Raises:
            InvalidRequest: there is no such question, or nothing would be left of it.
        """
        kept = [
            part for part in self._turn(place).question.content if not isinstance(part, TextPart)
        ]
        if not (text.strip() or kept):
            raise InvalidRequest("An empty message cannot be asked. Write something, or undo it.")
        parts = (*kept, TextPart(text=text)) if text else tuple(kept)
        cut = self.model_copy(update={"turns": self.turns[: place + 1]})
        return cut._end_with(Turn(question=_user(parts)))

    def undo(self) -> Chat:
        """Without the last turn."""
        return self.model_copy(update={"turns": self.turns[:-1]})

    def send(self, request: GenerateRequest) -> Chat:
        """With a job under way that answers the last question."""
        answer = Answer(job=request.id, model=request.model, sampling=request.sampling)
        return self.with_last(answer)

    def with_last(self, answer: Answer) -> Chat:
        """With another answer of the last turn."""
        return self._end_with(self.turns[-1].model_copy(update={"answer": answer}))

    def with_vote(
        self, job: str, vote: Vote, entry: str = "", reason: str = "", comment: str = ""
    ) -> Chat:
        """With a vote on the answer of a job, where it is logged, and why it was cast."""
        cast = {"vote": vote, "vote_entry": entry, "reason": reason, "comment": comment}
        turns = (
            turn.model_copy(update={"answer": turn.answer.model_copy(update=cast)})
            if turn.answer and turn.answer.job == job
            else turn
            for turn in self.turns
        )
        return self.model_copy(update={"turns": tuple(turns)})

    def with_link(self, token: str) -> Chat:
        """With the token of a link that shows it; an empty one revokes the link."""
        return self.model_copy(update={"share": token})

    def _turn(self, place: int) -> Turn:
        if not 0 <= place < len(self.turns):
            raise InvalidRequest("There is no such message in this chat: reload the page.")
        return self.turns[place]

    def _end_with(self, turn: Turn) -> Chat:
        return self.model_copy(update={"turns": (*self.turns[:-1], turn)})


def new_chat(owner: str) -> Chat:
    """Make an empty chat with an id that nobody guesses."""
    return Chat(id=secrets.token_urlsafe(16), owner=owner, created_s=time.time())


def _message(role: Role, text: str) -> ChatMessage:
    return ChatMessage(role=role, content=(TextPart(text=text),))


def _user(parts: Iterable[Part]) -> ChatMessage:
    return ChatMessage(role="user", content=tuple(parts))
