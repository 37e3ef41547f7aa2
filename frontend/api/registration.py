"""What a worker says to a controller, field by field as LLaVA, InternVL and FastChat send it.

Types are strict and sizes bounded, since all of it is kept. Who may say it, `control` decides.
"""

from __future__ import annotations

from typing import Annotated, TypeVar

from pydantic import AfterValidator, Field, ValidationError
from pydantic_core import PydanticCustomError

from broker.foreign import ForeignWorker
from frontend.api.body import decode
from frontend.api.schemas import Strict, explain

MAX_NAME_LENGTH = 256
MAX_MODELS = 64


def _printable(name: str) -> str:
    if not name.isprintable():
        raise PydanticCustomError("printable", "a name has printable characters only")
    return name


_Name = Annotated[str, Field(min_length=1, max_length=MAX_NAME_LENGTH)]
_ModelName = Annotated[_Name, AfterValidator(_printable)]
_Length = Annotated[int, Field(ge=0, lt=2**31)]


class WorkerStatus(Strict):
    """What `/worker_get_status` answers, too; the originals' speed is a constant."""

    model_names: Annotated[list[_ModelName], Field(max_length=MAX_MODELS)]
    speed: float = 1.0
    queue_length: _Length = 0


class Registration(Strict):
    """Body of /register_worker; only FastChat's workers say `multimodal`."""

    worker_name: _Name
    check_heart_beat: bool
    worker_status: WorkerStatus | None = None
    multimodal: bool | None = None

    def worker(self, now_s: float) -> ForeignWorker:
        """The record to keep; without a status the bridge asks the worker for its models."""
        status = self.worker_status or WorkerStatus(model_names=[])
        return ForeignWorker(
            address=self.worker_name,
            models=tuple(dict.fromkeys(status.model_names)),
            queue_length=status.queue_length,
            heartbeats=self.check_heart_beat,
            fastchat="multimodal" in self.model_fields_set,
            registered_s=now_s,
        )


class HeartBeat(Strict):
    """Body of /receive_heart_beat."""

    worker_name: _Name
    queue_length: _Length


class Withdrawal(Strict):
    """Body of /withdraw_worker."""

    worker_name: _Name


class ModelName(Strict):
    """Body of a route that asks about one model; a page may ask before one was chosen."""

    model: Annotated[str, Field(max_length=MAX_NAME_LENGTH)] | None = None


T = TypeVar("T", bound=Strict)


def read(kind: type[T], body: bytes) -> T:
    """Read a body.

    Raises:
        InvalidRequest: not JSON, a field is missing, of a wrong type, too long or out of range.
    """
    try:
        return kind.model_validate(decode(body))
    except ValidationError as error:
        raise explain(error.errors(include_url=False)[0]) from None
