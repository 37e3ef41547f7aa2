"""What is asked of a request before it gets on a queue, and how long it may stay there.

Knows the model that was found for it; whether there is room is the queue's to say.
"""

from __future__ import annotations

from collections.abc import Sequence

from broker.errors import InvalidRequest, RequestTooLarge
from broker.messages import ChatMessage, ImagePart, ModelInfo, ready_prompt
from broker.patience import Patience


def check(info: ModelInfo, messages: Sequence[ChatMessage], max_images: int) -> None:
    """Look for what no worker of the model could answer.

    Raises:
        InvalidRequest: no message, an empty last one, a ready prompt beside others, images for a
            model that takes none.
        RequestTooLarge: there are too many images.
    """
    if not messages:
        raise InvalidRequest("There is no message. Send at least one.", param="messages")
    if ready_prompt(messages) is None and messages[-1].role != "user":
        raise InvalidRequest(
            f"The last message is by {messages[-1].role!r}; it must be the user's.",
            param="messages",
        )
    if not messages[-1].text.strip() and not messages[-1].images:
        raise InvalidRequest(
            "The last message is empty. Write something or add a picture.", param="messages"
        )
    parts = [part for message in messages for part in message.content]
    count = sum(isinstance(part, ImagePart) for part in parts)
    if count > max_images:
        raise RequestTooLarge(
            f"The conversation has {count} images; at most {max_images} are "
            "accepted. Start a new one.",
            param="messages",
        )
    if info.ready and not info.images and any(message.images for message in messages):
        raise InvalidRequest(
            f"Model {info.name!r} reads text only. Leave the images out, or use another model.",
            param="messages",
        )


def patience(
    info: ModelInfo, queue_timeout_s: float | None, wait_for_worker_s: float, usual_s: float
) -> Patience:
    """Tell how long a job may wait; `usual_s` is for those of live models that do not say."""
    if info.workers:
        within_s = usual_s if queue_timeout_s is None else queue_timeout_s
    else:
        within_s = min(wait_for_worker_s, queue_timeout_s or wait_for_worker_s)
    return Patience(within_s, wait_for_worker_s)
