"""From a payload's prompt to the broker's messages: pictures become hashes, texts stay as they are.

A ready prompt is one message of role `prompt`, a picture standing where each mark stood; turning it
into what a model reads is the workers' part. No address is ever fetched.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from broker.errors import InvalidRequest, RequestTooLarge
from broker.messages import ChatMessage, ImagePart, Part, TextPart
from broker.settings import Settings
from frontend.api.content import MAX_TEXT_LENGTH, read_base64, read_data_uri
from frontend.api.payload import Payload, RoleMessage
from frontend.picture_store import PictureStore

MARK = "<image>"
FASTCHAT_MARK = "$$<image>$$"
_FASTCHAT_MARKS = re.compile(r"((?:\$\$<image>\$\$)+)((?:<image>\n)*)")


def read_prompt(payload: Payload, store: PictureStore, settings: Settings) -> list[ChatMessage]:
    """Translate a payload's prompt, and store its pictures.

    Raises:
        InvalidRequest: marks and pictures differ in number, or a picture stands where none may.
        InvalidImage: a picture is no base64, or cannot be opened.
        RequestTooLarge: too many pictures, too large a picture, too much text.
    """
    if isinstance(payload.prompt, str):
        _check_amounts(payload.prompt, payload.images or (), settings)
        return [_ready_prompt(payload, payload.prompt, store)]
    texts = "".join(turn.content or "" for turn in payload.prompt)
    pictures = [picture for turn in payload.prompt for picture in turn.image or ()]
    _check_amounts(texts, pictures, settings)
    if payload.images:
        raise InvalidRequest(
            "images: where the prompt is a list of messages, each message has its own list image.",
            param="images",
        )
    turns = (_turn(turn, at, store) for at, turn in enumerate(payload.prompt))
    return [turn for turn in turns if turn.content or turn.role != "system"]


def _check_amounts(text: str, pictures: Sequence[str], settings: Settings) -> None:
    if len(pictures) > settings.max_images:
        raise RequestTooLarge(
            f"The request has {len(pictures)} images; at most {settings.max_images} are accepted. "
            "Send fewer.",
            param="images",
        )
    if len(text) > MAX_TEXT_LENGTH:
        raise RequestTooLarge(
            f"The prompt has {len(text):,} characters; at most {MAX_TEXT_LENGTH:,} are accepted. "
            "Send less text.",
            param="prompt",
        )


def _ready_prompt(payload: Payload, prompt: str, store: PictureStore) -> ChatMessage:
    pictures = payload.images or ()
    texts = plain_marks(prompt).split(MARK)
    if len(texts) - 1 != len(pictures):
        raise InvalidRequest(
            f"The prompt has {len(texts) - 1} marks {MARK} for {len(pictures)} images. Send an "
            "image for each mark, and a mark for each image.",
            param="images",
        )
    content: list[Part] = [TextPart(text=texts[0])]
    for at, (picture, text) in enumerate(zip(pictures, texts[1:], strict=True)):
        content += (_stored(picture, f"images.{at}", store), TextPart(text=text))
    return ChatMessage(role="prompt", content=tuple(filter(_says_something, content)))


def plain_marks(prompt: str) -> str:
    """Write FastChat's marks as LLaVA's; its OpenAI server writes both for each picture."""

    def plain(found: re.Match[str]) -> str:
        count = len(found[1]) // len(FASTCHAT_MARK)
        return found[2] if found[2].count(MARK) == count else MARK * count + found[2]

    return _FASTCHAT_MARKS.sub(plain, prompt) if FASTCHAT_MARK in prompt else prompt


def _turn(turn: RoleMessage, at: int, store: PictureStore) -> ChatMessage:
    if turn.image and turn.role != "user":
        raise InvalidRequest(
            f"prompt.{at}.image: only the user's messages may have images.",
            param=f"prompt.{at}.image",
        )
    content: list[Part] = [
        _stored(picture, f"prompt.{at}.image.{place}", store)
        for place, picture in enumerate(turn.image or ())
    ]
    content.append(TextPart(text=turn.content or ""))
    return ChatMessage(role=turn.role, content=tuple(filter(_says_something, content)))


def _says_something(part: Part) -> bool:
    return not isinstance(part, TextPart) or bool(part.text)


def _stored(picture: str, param: str, store: PictureStore) -> ImagePart:
    is_uri = picture[:5].lower() in ("data:", "http:", "https")
    data = read_data_uri(picture, param) if is_uri else read_base64(picture, param)
    return ImagePart(sha256=store.add(data, param=param))
