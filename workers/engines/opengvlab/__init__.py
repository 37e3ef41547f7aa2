"""Checkpoints of InternVL in OpenGVLab's own form, read as transformers' InternVL.

They come with their model's code, which is never run: the small files are written anew in
transformers' form into a folder that lives while they are read, and the weights get their new names
on the way into memory. Knows nothing of engines.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import transformers
from huggingface_hub import snapshot_download

from broker.errors import ConfigurationError
from workers.engines.opengvlab.configuration import translate_config, translate_processor
from workers.engines.opengvlab.tokenizer import load_tokenizer
from workers.engines.opengvlab.weights import Weights

_ARCHITECTURE = "InternVLChatModel"
_FILES = ["*.json", "*.safetensors", "*.model", "*.txt"]


@dataclass(frozen=True, slots=True)
class Original:
    """A checkpoint in OpenGVLab's form: its folder and its `config.json`."""

    folder: Path
    settings: Mapping[str, Any]

    @contextmanager
    def translated(self) -> Iterator[str]:
        """Write all but the weights in transformers' form to a folder that lives in the context.

        Raises:
            ConfigurationError: a part of it has no counterpart in transformers.
        """
        with tempfile.TemporaryDirectory(prefix="heliograph-") as name:
            self._translate(Path(name))
            yield name

    def _translate(self, target: Path) -> None:
        tokenizer = load_tokenizer(self.folder)
        if self.settings.get("template"):
            tokenizer.chat_template = None  # which the model was not trained with
        tokenizer.save_pretrained(target)
        image_id = tokenizer.convert_tokens_to_ids(tokenizer.context_image_token)
        tied = not Weights(self.folder, self.settings).has_head()
        _write(target / "config.json", translate_config(self.settings, image_id, tied))
        _write(target / "processor_config.json", translate_processor(self.settings))
        if (generation := self.folder / "generation_config.json").exists():
            shutil.copy(generation, target)

    def load(self, config: Any, **options: Any) -> transformers.PreTrainedModel:
        """Load the model; `options` as for `from_pretrained`.

        Raises:
            ConfigurationError: weights are missing, or there are some that have no place.
        """
        weights = Weights(self.folder, self.settings).read()
        cls: Any = transformers.InternVLForConditionalGeneration
        model, info = cls.from_pretrained(
            None, config=config, state_dict=weights, output_loading_info=True, **options
        )
        wrong = sorted({*info["missing_keys"], *info["unexpected_keys"], *info["mismatched_keys"]})
        if wrong:
            raise ConfigurationError(
                f"{self.folder}: {len(wrong)} weights are missing or have no place in this "
                f"model, the first of them {wrong[0]}"
            )
        if (self.folder / "generation_config.json").exists():
            settings = cast(Any, transformers.GenerationConfig)
            model.generation_config = settings.from_pretrained(self.folder)
        return cast(transformers.PreTrainedModel, model)


def recognise(model_path: str, settings: Mapping[str, Any]) -> Original | None:
    """Return a checkpoint if its `config.json` is OpenGVLab's; one of the hub is fetched."""
    if _ARCHITECTURE not in (settings.get("architectures") or ()):
        return None
    folder = Path(model_path)
    if not folder.is_dir():
        folder = Path(snapshot_download(model_path, allow_patterns=_FILES))
    return Original(folder, settings)


def _write(file: Path, content: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(content), encoding="utf-8")
