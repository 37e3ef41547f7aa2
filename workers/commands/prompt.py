"""`python -m workers prompt`: print the prompt that a conversation becomes, without any weights.

Owns the command line and the reading of messages in OpenAI's shape, or of a ready prompt; pictures
are only marks here, whatever their address says. What is printed is made by the worker's own
`workers.prompt`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from broker.errors import ConfigurationError, HeliographError, InvalidRequest
from broker.messages import ChatMessage, ImagePart, Part, Role, TextPart
from workers.templates import DEFAULT_MARK, TEMPLATES, named

if TYPE_CHECKING:
    from workers.prompt import PromptBuilder

_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
}
_IMAGES = ("image", "image_url", "input_image")
_DEMO = Path(__file__).parents[1] / "demo" / "model"


def main(argv: list[str]) -> None:
    """Run the command; what is wrong with the input ends it with one sentence and status 1."""
    flags = _parse_flags(argv)
    try:
        if flags.ready is None:
            output = _prompt(flags, read_messages(_read(flags.messages)))
        else:
            output = _prompt(flags, (read_ready(flags.ready),))
    except (HeliographError, ConfigurationError, OSError) as error:
        sys.exit(f"heliograph prompt: {error}")
    try:
        sys.stdout.buffer.write(f"{output}\n".encode())
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parse_flags(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m workers prompt", description=__doc__)
    parser.add_argument("--template", metavar="NAME", help="one of: " + ", ".join(TEMPLATES))
    parser.add_argument(
        "--model-path", help="a checkpoint, or 'demo': its own template unless --template is given"
    )
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("--messages", metavar="FILE", help="JSON list of messages; - reads stdin")
    given.add_argument(
        "--ready",
        metavar="TEXT",
        help="a prompt that a template has written, with <image> marks (needs --model-path)",
    )
    parser.add_argument(
        "--ids", action="store_true", help="print token ids instead (needs --model-path)"
    )
    flags = parser.parse_args(argv)
    if not (flags.template or flags.model_path):
        parser.error("one of --template and --model-path is needed, or both")
    if flags.ids and not flags.model_path:
        parser.error("--ids needs --model-path, for its tokenizer")
    if flags.ready is not None and not flags.model_path:
        parser.error("--ready needs --model-path: the checkpoint decides what becomes of it")
    return flags


def _read(source: str) -> str:
    """Read the file, or standard input."""
    if source != "-":
        data = Path(source).read_bytes()
    elif sys.stdin is None:
        raise InvalidRequest("Standard input is closed; pipe the messages in, or name a file.")
    else:
        data = sys.stdin.buffer.read()
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"The messages are not UTF-8 text: {error.reason}.") from None


def read_messages(text: str) -> tuple[ChatMessage, ...]:
    """Read a JSON list of messages, or an object with `messages`, as in OpenAI's API.

    Raises:
        InvalidRequest: it is something else.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"The messages are not JSON: {error}.") from None
    messages = content.get("messages") if isinstance(content, dict) else content
    if not isinstance(messages, list) or not messages:
        raise InvalidRequest("The messages must be a JSON list with at least one message.")
    return tuple(_message(message, f"messages.{i}") for i, message in enumerate(messages))


def read_ready(text: str) -> ChatMessage:
    """Read a ready prompt, with `<image>` where a picture stands."""
    parts: list[Part] = []
    for place, piece in enumerate(text.split(DEFAULT_MARK)):
        parts += [_picture()] if place else []
        parts += [TextPart(text=piece)] if piece else []
    return ChatMessage(role="prompt", content=tuple(parts))


def _message(message: Any, where: str) -> ChatMessage:
    role = message.get("role") if isinstance(message, dict) else None
    if not isinstance(role, str) or role not in _ROLES:
        raise InvalidRequest(f"{where} must be an object whose role is one of {', '.join(_ROLES)}.")
    content = message.get("content")
    if content is None and role == "assistant":
        content = ""
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    if not isinstance(content, list):
        raise InvalidRequest(f"{where}.content must be a string or a list of parts.")
    parts = tuple(_part(part, f"{where}.content.{i}") for i, part in enumerate(content))
    return ChatMessage(role=_ROLES[role], content=parts)


def _part(part: Any, where: str) -> Part:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind in _IMAGES:
        return _picture()
    if kind != "text" or not isinstance(part.get("text"), str):
        raise InvalidRequest(
            f"{where} must be a text part with its text, or a part of type {' or '.join(_IMAGES)}."
        )
    try:
        part["text"].encode()
    except UnicodeEncodeError:
        raise InvalidRequest(f"{where}: half of a surrogate pair is no text.") from None
    return TextPart(text=part["text"])


def _picture() -> ImagePart:
    return ImagePart(sha256="0" * 64)


def _prompt(flags: argparse.Namespace, messages: tuple[ChatMessage, ...]) -> str:
    # Imported late: a wrong message is told without waiting for transformers.
    from workers.prompt import as_text, write

    if not flags.model_path:
        return as_text(write(messages, partial(named(flags.template).render)))
    builder, image_token = _builder(flags)
    if flags.ready is not None:
        messages = _translate(builder, messages)
    first, *others = builder.build(messages).runs
    if not flags.ids:
        return builder.text(messages)
    ids: list[int | str] = [*first]
    for run in others:
        ids += [image_token or "", *run]
    return json.dumps(ids, ensure_ascii=False)


def _translate(builder: PromptBuilder, ready: tuple[ChatMessage, ...]) -> tuple[ChatMessage, ...]:
    """Do as a worker does with a ready prompt, and tell on standard error what that is."""
    from workers.templates.reading import read

    found = read(ready[0].content)
    messages = builder.translate(ready)
    known = f"as {found[0].name} writes it" if found else "by no template that is known"
    fate = "stays as it is" if messages is ready else "is written anew by the model's template"
    print(f"heliograph prompt: a ready prompt, {known}; it {fate}", file=sys.stderr)
    return messages


def _builder(flags: argparse.Namespace) -> tuple[PromptBuilder, str | None]:
    from workers.engines.base import EngineOptions
    from workers.engines.language import load_language
    from workers.prompt import PromptBuilder

    model_path = str(_DEMO) if flags.model_path == "demo" else flags.model_path
    options = EngineOptions(model_path=model_path, conv_template=flags.template or "auto")
    language = load_language(options)
    pictures = (language.pictures.token, language.pictures.frame) if language.pictures else ()
    builder = PromptBuilder(language.tokenizer, language.template, *pictures)
    return builder, language.pictures.token if language.pictures else None
