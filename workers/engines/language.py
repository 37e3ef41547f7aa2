"""All of a checkpoint but its weights: configuration, tokenizer, template and pictures.

Owns the ways in which checkpoints come (transformers' own form, a GGUF file, OpenGVLab's form) and
the refusal of what cannot be served or would run code. Loads weights only when it is told how.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

from broker.errors import ConfigurationError
from workers import templates
from workers.engines import opengvlab
from workers.engines.base import EngineOptions
from workers.engines.pictures import PictureProcessor
from workers.engines.remote_code import read_settings, refuse_code
from workers.templates import Template

_LAYER_TYPES = {"full_attention", "sliding_attention", "chunked_attention"}


@dataclass(frozen=True, slots=True)
class Language:
    """What is needed to read and write for a model, and where its weights are."""

    path: str
    config: Any
    tokenizer: transformers.PreTrainedTokenizerBase
    pictures: PictureProcessor | None
    template: str | Template | None
    extra: dict[str, Any]
    original: opengvlab.Original | None

    def load_model(self, **options: Any) -> transformers.PreTrainedModel:
        """Load the weights; `options` as for `from_pretrained`."""
        if self.original is not None:
            return self.original.load(self.config, **options)
        if "gguf_file" in self.extra:
            options["quantization_config"] = cast(Any, transformers.GgufConfig)(dequantize=True)
        auto: Any = transformers.AutoModelForCausalLM
        if self.pictures:
            auto = transformers.AutoModelForImageTextToText
        return cast(
            transformers.PreTrainedModel, auto.from_pretrained(self.path, **self.extra, **options)
        )


def load_language(options: EngineOptions) -> Language:
    """Load all but the weights of what `options.model_path` names.

    Raises:
        ConfigurationError: the model is unknown or cannot be served.
    """
    path, extra = _locate(options.model_path)
    try:
        settings = {} if extra else read_settings(path)
        original = opengvlab.recognise(path, settings)
        if original is None and not options.trust_remote_code:
            refuse_code(path, settings)
        extra |= {"trust_remote_code": options.trust_remote_code}
        with original.translated() if original else nullcontext(path) as readable:
            config = transformers.AutoConfig.from_pretrained(readable, **extra)
            _refuse_unsupported(config)
            tokenizer = transformers.AutoTokenizer.from_pretrained(readable, **extra)
            takes_images = type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
            pictures = PictureProcessor(readable, config) if takes_images else None
    except (OSError, ValueError, ImportError) as error:
        raise ConfigurationError(f"cannot load {options.model_path}: {error}") from error
    template = _choose_template(options, config, tokenizer, pictures)
    return Language(path, config, tokenizer, pictures, template, extra, original)


def _locate(model_path: str) -> tuple[str, dict[str, Any]]:
    path = Path(model_path)
    if path.suffix != ".gguf":
        return model_path, {}
    if find_spec("gguf") is None:
        raise ConfigurationError(f"{model_path}: to load GGUF files, install the package gguf")
    return str(path.parent), {"gguf_file": path.name}


def _refuse_unsupported(config: Any) -> None:
    text = config.get_text_config()
    if config.is_encoder_decoder:
        raise ConfigurationError(f"{config.model_type}: encoder-decoder models are not supported")
    other = set(getattr(text, "layer_types", None) or ()) - _LAYER_TYPES
    if other:
        raise ConfigurationError(f"{config.model_type}: no support for layers of type {other}")


def _choose_template(
    options: EngineOptions,
    config: Any,
    tokenizer: transformers.PreTrainedTokenizerBase,
    pictures: PictureProcessor | None,
) -> str | Template | None:
    """Choose by the flag, else what the checkpoint brings or names, else by the model's name."""
    if options.conv_template != "auto":
        return templates.named(options.conv_template)
    for template in (pictures.template if pictures else None, tokenizer.chat_template):
        if isinstance(template, dict):
            template = template.get("default")
        if template:
            return str(template)
    if known := templates.TEMPLATES.get(getattr(config, "template", "")):  # InternVL's config.json
        return known
    names = (options.model_name, Path(options.model_path).name)
    return next(filter(None, map(templates.choose, names)), None)
