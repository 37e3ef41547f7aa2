"""A ready prompt as text, with the model's own mark where each picture stands.

The text is a template's, word for word: nobody's words are told from it here, and it is trusted as
whoever sent it wrote it. Knows no template and no tokens.
"""

from __future__ import annotations

from broker.errors import InvalidRequest
from broker.messages import Part, TextPart


def write_ready(parts: tuple[Part, ...], token: str | None, marks: tuple[str, str]) -> str:
    """Write a ready prompt, with `token` for each picture and `marks` around, unless they stand.

    Raises:
        InvalidRequest: the model takes no pictures, or the text has the token itself.
    """
    texts = _between_pictures(parts)
    if token is None:
        if len(texts) > 1:
            raise InvalidRequest("This model takes no images.", param="messages")
        return texts[0]
    if any(token in text for text in texts):
        raise InvalidRequest(
            f"The prompt's text has {token!r}, which this model reads as an image that was not "
            "sent. Leave it out, and mark the place of each image with '<image>'.",
            param="messages",
        )
    before, after = marks
    written = texts[0]
    for text in texts[1:]:
        marked = written.endswith(before) and text.startswith(after)
        written += (token if marked else before + token + after) + text
    return written


def _between_pictures(parts: tuple[Part, ...]) -> list[str]:
    texts = [""]
    for part in parts:
        if isinstance(part, TextPart):
            texts[-1] += part.text
        else:
            texts.append("")
    return texts
