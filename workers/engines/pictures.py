"""Pictures for a model: the ids they take in a prompt, and their pixels.

Owns the checkpoint's image processor, in its PIL form: torchvision is not needed. Knows nothing of
prompts or sequences.
"""

from __future__ import annotations

import math
import threading
from bisect import bisect_left
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from PIL import Image

from broker.errors import ConfigurationError
from broker.messages import ImageProcessMode
from workers.engines.processors import load_processor


class Key(NamedTuple):
    """What features depend on: a picture's SHA-256, its most tiles, and how it is shaped before."""

    sha256: str
    max_tiles: int | None = None
    mode: ImageProcessMode | None = None


_TEXT_OUTPUTS = {
    "input_ids",
    "attention_mask",
    "token_type_ids",
    "mm_token_type_ids",
    "text_replacement_offsets",
}
_TILE_AXES = 4
"""Of a tensor of tiles: their number, colours, height, width; some put more before these."""
_TILE_OPTIONS = ("max_patches", "max_image_tiles")


@dataclass(frozen=True, slots=True)
class Pixels:
    """A picture as the model takes it: its ids in a prompt, and the vision tower's inputs.

    `grain` is how many tiles it is, and the width and height of each; zeros if that is not known.
    """

    key: Key
    ids: tuple[int, ...]
    inputs: dict[str, torch.Tensor]
    grain: tuple[int, int, int]


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
        self._processor = load_processor(model_path, config)
        self._lock = threading.Lock()
        try:
            self.token: str = self._processor.image_token
            self.token_id: int = config.image_token_id
        except AttributeError as error:
            raise ConfigurationError(f"{config.model_type}: no single token for images") from error
        self.template: str | None = self._processor.chat_template
        image_processor = self._processor.image_processor
        self._tile_option = next((o for o in _TILE_OPTIONS if hasattr(image_processor, o)), None)
        try:
            self.frame = self._find_frame()
        except Exception as error:  # whatever a processor that does not fit stumbles over
            raise ConfigurationError(
                f"{config.model_type}: its processor prepares no pictures here ({error})"
            ) from error

    def _find_frame(self) -> tuple[str, str]:
        """The blanks around a picture's tokens, which may join those of the text around it."""
        written, _ = self._run(Image.new("RGB", (64, 64)), {})
        before, _, after = written.partition(written.strip())
        return before, after

    @property
    def tiles(self) -> bool:
        """Whether pictures are cut into tiles whose number a request may limit."""
        return self._tile_option is not None

    def process(self, key: Key, image: Image.Image) -> Pixels:
        """Prepare a picture; its ids are what the model's processor writes for an image token.

        Without the blanks of `frame`, which belong to the prompt's text.
        """
        if threading.current_thread() is not threading.main_thread():
            torch.set_num_threads(1)  # for this thread: the cores belong to the one that decodes
        options: dict[str, Any] = {}
        if self._tile_option and key.max_tiles:
            options[self._tile_option] = key.max_tiles
        with self._lock:
            written, inputs = self._run(image, options)
            ids = self._processor.tokenizer(written.strip(), add_special_tokens=False).input_ids
        return Pixels(key, tuple(ids), inputs, self._grain(inputs))

    def _grain(self, inputs: dict[str, torch.Tensor]) -> tuple[int, int, int]:
        """Return what `Pixels.grain` says, from the vision tower's inputs."""
        if (grid := inputs.get("image_grid_thw")) is not None:  # of patches, in one piece
            _, rows, columns = grid[0].tolist()
            side = self._processor.image_processor.patch_size
            return 1, columns * side, rows * side
        values = inputs.get("pixel_values")
        if values is None or values.ndim < _TILE_AXES:
            return 0, 0, 0
        *tiles, _, height, width = values.shape
        return math.prod(tiles), width, height

    def _run(
        self, image: Image.Image, options: dict[str, Any]
    ) -> tuple[str, dict[str, torch.Tensor]]:
        """Return what is written for a picture in a prompt, and the vision tower's inputs."""
        output = self._processor(
            text=[self.token],
            images=[image],
            return_tensors="pt",
            return_text_replacement_offsets=True,
            **options,
        )
        written: str = output["text_replacement_offsets"][0][0]["replacement"]
        inputs = {name: value for name, value in output.items() if name not in _TEXT_OUTPUTS}
        return written, inputs
