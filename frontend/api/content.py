"""From a client's messages to the broker's: texts stay as they are, pictures become hashes.

A picture comes as a data URI and is checked and stored at once. No address is ever fetched: an
http(s) URL is refused with a hint.
"""

from __future__ import annotations

import base64
import binascii

from broker.errors import InvalidImage, InvalidRequest, RequestTooLarge
from broker.messages import ChatMessage, ImagePart, Part, Role, TextPart, VideoPart
from broker.settings import Settings
from frontend.api.schemas import ChatRequest, Image, Message, Text, Video
from frontend.picture_store import PictureStore
from frontend.videos import DEFAULT_FRAMES

MAX_TEXT_LENGTH = 4_000_000
"""Characters in all messages together; far beyond any context, and bearable for a tokenizer."""

_EXAMPLES = {"image": "data:image/png;base64,...", "video": "data:video/mp4;base64,..."}
_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
}


def read_messages(
    request: ChatRequest, pictures: PictureStore, settings: Settings
) -> list[ChatMessage]:
    """Translate the messages, and store their pictures.

    Raises:
        InvalidRequest: an empty turn, or a picture where none may be.
        InvalidImage: a picture that is no data URI, or that cannot be opened.
        RequestTooLarge: too many pictures, too large a picture, too much text.
    """
    _check_amounts(request, settings)
    frames = _frames_each(request)
    return [_read(message, at, pictures, frames) for at, message in enumerate(request.messages)]


def _frames_each(request: ChatRequest) -> int:
    return request.max_video_frames or DEFAULT_FRAMES


def _check_amounts(request: ChatRequest, settings: Settings) -> None:
    parts = [part for message in request.messages for part in _parts(message)]
    count = sum(isinstance(part, Image) for part in parts)
    if count > settings.max_images:
        raise RequestTooLarge(
            f"The request has {count} images; at most {settings.max_images} are accepted. "
            "Send fewer.",
            param="messages",
        )
    frames = sum(isinstance(part, Video) for part in parts) * _frames_each(request)
    if frames > settings.max_video_frames:
        raise RequestTooLarge(
            f"The request asks for {frames} frames of videos; at most "
            f"{settings.max_video_frames} are accepted. Send fewer videos, or a lower "
            "max_video_frames.",
            param="messages",
        )
    length = sum(len(part) for part in parts if isinstance(part, str))
    if length > MAX_TEXT_LENGTH:
        raise RequestTooLarge(
            f"The messages have {length:,} characters; at most {MAX_TEXT_LENGTH:,} are accepted. "
            "Send less text.",
            param="messages",
        )


def _parts(message: Message) -> list[str | Image | Video]:
    if message.content is None or isinstance(message.content, str):
        return [message.content] if message.content else []
    return [part.text if isinstance(part, Text) else part for part in message.content]


def _read(message: Message, index: int, pictures: PictureStore, frames: int) -> ChatMessage:
    where = f"messages.{index}.content"
    if message.content is None and message.role != "assistant":
        raise InvalidRequest(
            f"{where} is required: a string or a list of parts; it is null or missing.", param=where
        )
    content: list[Part] = []
    for place, part in enumerate(_parts(message)):
        if isinstance(part, str):
            content.append(TextPart(text=part))
            continue
        param = f"{where}.{place}.{part.type}"
        if message.role != "user":
            raise InvalidRequest(
                f"{param}: only the user's messages may have images and videos.", param=param
            )
        if isinstance(part, Video):
            data = read_data_uri(part.video_url.url, param, "video")
            content.append(VideoPart(frames=pictures.add_video(data, frames, param=param)))
        else:
            data = read_data_uri(part.image_url.url, param)
            content.append(ImagePart(sha256=pictures.add(data, param=param)))
    return ChatMessage(role=_ROLES[message.role], content=tuple(content))


def read_data_uri(uri: str, param: str, kind: str = "image") -> bytes:
    """Decode `data:image/...;base64,...`, or the same of another kind.

    Raises:
        InvalidImage: it has another form.
    """
    head, comma, payload = uri.partition(",")
    head = head[:200].lower()
    if head.startswith(("http:", "https:")):
        raise InvalidImage(
            f"{kind.capitalize()}s are not fetched from the network. Send the {kind} itself, as "
            f"{_EXAMPLES[kind]}.",
            param=param,
        )
    if not comma or not head.startswith(f"data:{kind}/") or not head.endswith(";base64"):
        raise InvalidImage(
            f"The {kind} must be a data URI of the form {_EXAMPLES[kind]}.", param=param
        )
    return read_base64(payload, param, kind)


def read_base64(payload: str, param: str, kind: str = "image") -> bytes:
    """Decode plain base64; blanks and line breaks are passed over.

    Raises:
        InvalidImage: it has other characters, or wrong padding.
    """
    try:
        return base64.b64decode("".join(payload.split()), validate=True)
    except (binascii.Error, ValueError):
        raise InvalidImage(
            f"The {kind}'s base64 is broken: it has characters or padding that do not belong "
            "there.",
            param=param,
        ) from None
