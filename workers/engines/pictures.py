"""Pictures for a model: the ids they take in a prompt, and their pixels.

Owns the checkpoint's image processor, in its PIL form: torchvision is not needed. Knows nothing of
prompts or sequences.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from PIL import Image
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

from broker.errors import ConfigurationError
from broker.messages import ImageProcessMode


class Key(NamedTuple):
    """What features depend on: a picture's SHA-256, its most tiles, and how it is shaped before."""

    sha256: str
    max_tiles: int | None = None
    mode: ImageProcessMode | None = None


_TILE_OPTIONS = ("max_patches", "max_image_tiles")


@dataclass(frozen=True, slots=True)
class Pixels:
    """A picture as the model takes it: its ids in a prompt, and the vision tower's inputs."""

    key: Key
    ids: tuple[int, ...]
    inputs: dict[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Span:
    """A picture within a prompt: the positions that its features fill, in order."""

    pixels: Pixels
    positions: tuple[int, ...]

    def overlap(self, start: int, stop: int) -> range:
        """Rows of the picture's features that belong to positions from `start` to `stop`."""
        return range(bisect_left(self.positions, start), bisect_left(self.positions, stop))


class PictureProcessor:
    """Cuts pictures into the model's tiles. Safe to use from several threads."""

    def __init__(self, model_path: str, config: Any) -> None:
        self._processor = _load_processor(model_path, config)
        self._lock = threading.Lock()
        try:
            self.token: str = self._processor.image_token
            self.token_id: int = config.image_token_id
        except AttributeError as error:
            raise ConfigurationError(f"{config.model_type}: no single token for images") from error
        self.template: str | None = self._processor.chat_template
        image_processor = self._processor.image_processor
        self._tile_option = next((o for o in _TILE_OPTIONS if hasattr(image_processor, o)), None)

    @property
    def tiles(self) -> bool:
        """Whether pictures are cut into tiles whose number a request may limit."""
        return self._tile_option is not None

    def process(self, key: Key, image: Image.Image) -> Pixels:
        """Prepare a picture; its ids are what the model's processor makes of one image token."""
        if threading.current_thread() is not threading.main_thread():
            torch.set_num_threads(1)  # for this thread: the cores belong to the one that decodes
        options: dict[str, Any] = {"add_special_tokens": False, "return_tensors": "pt"}
        if self._tile_option and key.max_tiles:
            options[self._tile_option] = key.max_tiles
        with self._lock:
            output = self._processor(text=[self.token], images=[image], **options)
        inputs = dict(output)
        ids = tuple(inputs.pop("input_ids")[0].tolist())
        inputs.pop("attention_mask", None)
        return Pixels(key, ids, inputs)


def _load_processor(model_path: str, config: Any) -> Any:
    try:
        family = cast(Any, PROCESSOR_MAPPING)[type(config)]
    except KeyError:
        raise ConfigurationError(f"{config.model_type}: no processor for its images") from None
    # The whole processor would demand torchvision for its video part.
    attributes = ["image_processor", "tokenizer"]
    changed = {"get_attributes": classmethod(lambda _: attributes)}
    cls: Any = type(family.__name__, (family,), changed)
    return cls.from_pretrained(model_path, backend="pil")
