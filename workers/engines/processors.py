"""transformers' processors without torchvision: pictures need none of it, only videos do.

Owns the choice of a checkpoint's processor class, and the one class that transformers does not
offer without torchvision. Knows nothing of prompts or sequences.
"""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any, cast

import transformers
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
from transformers.utils.hub import cached_file

from broker.errors import ConfigurationError

_FILES = ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json")


class PixtralProcessor(transformers.ProcessorMixin):
    """Pixtral's rows of patches: a token for each, one between rows and one at the end."""

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        patch_size: int = 16,
        spatial_merge_size: int = 1,
        chat_template: str | None = None,
        image_token: str = "[IMG]",
        image_break_token: str = "[IMG_BREAK]",
        image_end_token: str = "[IMG_END]",
        **_: Any,
    ) -> None:
        base: Any = super()
        base.__init__(image_processor, tokenizer, chat_template=chat_template)
        self.patch_pixels = patch_size * spatial_merge_size
        self.image_token = image_token
        self.image_token_id = tokenizer.convert_tokens_to_ids(image_token)
        self._break, self._end = image_break_token, image_end_token

    def _process_images(self, images: Any, **options: Any) -> Any:
        return super()._process_images(images, **options | {"patch_size": self.patch_pixels})

    def replace_image_token(self, image_inputs: Any, image_idx: int, **_: Any) -> str:
        """Write out the rows of a picture that has been resized to whole patches."""
        height, width = (int(side) for side in image_inputs["image_sizes"][image_idx])
        row = self.image_token * (width // self.patch_pixels)
        return self._break.join([row] * (height // self.patch_pixels)) + self._end


def load_processor(model_path: str, config: Any) -> Any:
    """Load a checkpoint's processor, its pictures' part in Pillow.

    Raises:
        ConfigurationError: transformers has none for these checkpoints.
    """
    family = _choose(model_path, config)
    # The whole processor would demand torchvision for its video part.
    attributes = ["image_processor", "tokenizer"]
    changed = {"get_attributes": classmethod(lambda _: attributes)}
    cls: Any = type(family.__name__, (family,), changed)
    takes = inspect.signature(family.__init__).parameters
    without = {"video_processor": None} if "video_processor" in takes else {}
    return cls.from_pretrained(model_path, backend="pil", **without)


def _choose(model_path: str, config: Any) -> Any:
    """Find the class that the checkpoint names, or the usual one of its family."""
    name = next(filter(None, (_named_in(model_path, file) for file in _FILES)), None)
    if name is None:
        try:
            name = cast(Any, PROCESSOR_MAPPING)[type(config)].__name__
        except KeyError:
            raise ConfigurationError(f"{config.model_type}: no processor for its images") from None
    if name == PixtralProcessor.__name__:
        return PixtralProcessor
    return getattr(transformers, name)


def _named_in(model_path: str, file: str) -> str | None:
    path = cached_file(model_path, file, _raise_exceptions_for_missing_entries=False)
    if path is None:
        return None
    name = json.loads(Path(path).read_text(encoding="utf-8")).get("processor_class")
    return name if isinstance(name, str) and hasattr(transformers, name) else None
