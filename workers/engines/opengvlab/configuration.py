"""`config.json` of OpenGVLab's InternVL as transformers' configurations of model and processor.

Only what was released from InternVL 1.5 on has a counterpart: the earlier models read their
pictures' features in another order, or from an earlier layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import transformers

from broker.errors import ConfigurationError

Settings = Mapping[str, Any]

_LANGUAGE_MODELS = {
    "InternLM2ForCausalLM": "llama",
    "LlamaForCausalLM": "llama",
    "Phi3ForCausalLM": "phi3",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
}
_VISION = {
    "hidden_size": ("hidden_size", 3200),
    "intermediate_size": ("intermediate_size", 12800),
    "num_hidden_layers": ("num_hidden_layers", 48),
    "num_attention_heads": ("num_attention_heads", 25),
    "num_channels": ("num_channels", 3),
    "image_size": ("image_size", 224),
    "patch_size": ("patch_size", 14),
    "hidden_act": ("hidden_act", "gelu"),
    "norm_type": ("norm_type", "rms_norm"),
    "layer_norm_eps": ("layer_norm_eps", 1e-6),
    "qkv_bias": ("attention_bias", False),
    "qk_normalization": ("use_qk_norm", True),
}
"""What a setting of the vision tower is called in transformers, and what it is if not given."""
_NOT_TAKEN = {"model_type", "architectures", "transformers_version", "dtype", "auto_map"}
_MEAN, _STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def translate_config(settings: Settings, image_token_id: int, tied: bool) -> dict[str, Any]:
    """Write transformers' `config.json`; `tied` if embedding and head are the same weights.

    Raises:
        ConfigurationError: it is an older model, or has a language model that nobody knows.
    """
    for name, expected in (("ps_version", "v2"), ("select_layer", -1)):
        if settings.get(name) != expected:
            raise ConfigurationError(
                f"InternVL with {name} {settings.get(name)!r} is not supported; models from "
                f"InternVL 1.5 on have {expected!r}"
            )
    text = {**_translate_text(settings["llm_config"]), "tie_word_embeddings": tied}
    config = transformers.InternVLConfig(
        vision_config=_translate_vision(settings["vision_config"]),
        text_config=text,
        image_token_id=image_token_id,
        image_seq_length=_tokens_per_tile(settings),
        downsample_ratio=settings["downsample_ratio"],
        tie_word_embeddings=tied,
        dtype=settings.get("torch_dtype") or settings.get("dtype"),
    )
    return {**config.to_dict(), "template": settings.get("template")}


def translate_processor(settings: Settings) -> dict[str, Any]:
    """Write transformers' `processor_config.json`.

    Raises:
        ConfigurationError: pictures are cut into tiles without a thumbnail beside them.
    """
    tiles = settings.get("max_dynamic_patch", 6) if settings.get("dynamic_image_size") else 1
    if tiles > 1 and not settings.get("use_thumbnail"):
        raise ConfigurationError("InternVL with tiles but without use_thumbnail is not supported")
    side = _tile_side(settings)
    return {
        "processor_class": "InternVLProcessor",
        "image_seq_length": _tokens_per_tile(settings),
        "image_processor": {
            "image_processor_type": "GotOcr2ImageProcessor",
            "size": {"height": side, "width": side},
            "crop_to_patches": tiles > 1,
            "min_patches": min(settings.get("min_dynamic_patch", 1), tiles),
            "max_patches": tiles,
            "image_mean": _MEAN,
            "image_std": _STD,
        },
    }


def _translate_vision(theirs: Settings) -> dict[str, Any]:
    return {ours: theirs.get(name, default) for name, (ours, default) in _VISION.items()}


def _translate_text(theirs: Settings) -> dict[str, Any]:
    architecture = (theirs.get("architectures") or [None])[0]
    family = _LANGUAGE_MODELS.get(architecture)
    if family is None:
        known = ", ".join(_LANGUAGE_MODELS)
        raise ConfigurationError(
            f"InternVL with the language model {architecture} is not supported; known: {known}"
        )
    config: Any = transformers.AutoConfig.for_model(family)
    taken = {*config.to_dict(), "rope_theta"} - _NOT_TAKEN
    values = {name: value for name, value in theirs.items() if name in taken}
    if "bias" in theirs:  # InternLM2's name
        values["attention_bias"] = theirs["bias"]
    scaling = theirs.get("rope_scaling") or {}
    if scaling.get("type", scaling.get("rope_type", "dynamic")) != "dynamic":
        values["rope_scaling"] = scaling  # a dynamic one begins where the context ends here
    return {**type(config)(**values).to_dict(), "model_type": family}


def _tile_side(settings: Settings) -> int:
    side: int = settings.get("force_image_size") or settings["vision_config"]["image_size"]
    return side


def _tokens_per_tile(settings: Settings) -> int:
    patches = _tile_side(settings) // settings["vision_config"]["patch_size"]
    return int(patches**2 * settings["downsample_ratio"] ** 2)
