"""Tiny random checkpoints of the vision-language families, each with its own architecture.

What is tiny is the sizes; classes, processors, special tokens and the shape of the templates are
those of the published checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from tokenizers import AddedToken

from tests.workers.checkpoints import (
    byte_level_tokenizer,
    save_checkpoint,
    save_internvl,
    save_llava,
    save_processor,
    text_config,
    vision_config,
)

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.content is string %}{{ m.content }}"
    "{% else %}{% for part in m.content %}{% if part.type == 'image' %}IMAGE"
    "{% else %}{{ part.text }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
INSTRUCTIONS = (
    "{% for m in messages %}{% if m.role == 'user' %}[INST]{% for part in m.content %}"
    "{% if part.type == 'image' %}[IMG]{% else %}{{ part.text }}{% endif %}{% endfor %}[/INST]"
    "{% else %}{{ m.content[0].text }}<|im_end|>{% endif %}{% endfor %}"
)
TURNS = (
    "{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{% if m.content is string %}{{ m.content | trim }}{% else %}{% for part in m.content %}"
    "{% if part.type == 'image' %}<start_of_image>{% else %}{{ part.text | trim }}{% endif %}"
    "{% endfor %}{% endif %}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)


QWEN_TOWER = {"hidden_size": 24, "intermediate_size": 32, "out_hidden_size": 32}
DEEPSTACK = {"num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1]}
_text = partial(text_config, max_position_embeddings=1024)


def _qwen_vl(folder: Path, family: str, vision: dict[str, Any], **changes: Any) -> Path:
    """Write a Qwen-VL: pictures of any size in patches of 4 pixels, 2 x 2 patches to a token."""
    torch.manual_seed(11)
    marks = {
        "vision_start_token": "<|vision_start|>",
        "vision_end_token": "<|vision_end|>",
        "image_token": "<|image_pad|>",
        "video_token": "<|video_pad|>",
    }
    tokenizer: Any = byte_level_tokenizer(
        marks,
        CHATML.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>"),
    )
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}
    config = transformers.AutoConfig.for_model(
        family,
        text_config=_text(
            f"{family}_text", len(tokenizer), rope_parameters=rope, **changes
        ).to_dict(),
        vision_config={"depth": 2, "num_heads": 2, "patch_size": 4, **vision},
        image_token_id=tokenizer.convert_tokens_to_ids("<|image_pad|>"),
        video_token_id=tokenizer.convert_tokens_to_ids("<|video_pad|>"),
        vision_start_token_id=tokenizer.convert_tokens_to_ids("<|vision_start|>"),
        vision_end_token_id=tokenizer.convert_tokens_to_ids("<|vision_end|>"),
        tie_word_embeddings=False,
    )
    save_checkpoint(folder, _random(config), tokenizer)
    image_processor = {
        "image_processor_type": "Qwen2VLImageProcessor",
        "size": {"shortest_edge": 256, "longest_edge": 4096},
        "patch_size": 4,
        "temporal_patch_size": 2,
        "merge_size": 2,
    }
    name = {"qwen2_vl": "Qwen2VL", "qwen2_5_vl": "Qwen2_5_VL"}.get(family, "Qwen3VL")
    save_processor(folder, f"{name}Processor", image_processor)
    return folder


def save_qwen2_vl(folder: Path) -> Path:
    """Write a random Qwen2-VL."""
    return _qwen_vl(folder, "qwen2_vl", {"embed_dim": 24, "hidden_size": 32, "mlp_ratio": 2})


def save_qwen2_5_vl(folder: Path) -> Path:
    """Write a random Qwen2.5-VL, whose tower attends in windows."""
    windows = {"window_size": 16, "fullatt_block_indexes": [1]}
    return _qwen_vl(folder, "qwen2_5_vl", QWEN_TOWER | windows)


def save_qwen3_vl(folder: Path) -> Path:
    """Write a random Qwen3-VL, whose tower adds to the first layers of the language model."""
    return _qwen_vl(folder, "qwen3_vl", QWEN_TOWER | DEEPSTACK)


def save_qwen3_vl_moe(folder: Path) -> Path:
    """Write a random Qwen3-VL with experts."""
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
    return _qwen_vl(folder, "qwen3_vl_moe", QWEN_TOWER | DEEPSTACK, **experts)


def _llava_tokenizer() -> Any:
    return byte_level_tokenizer(
        {"image_token": "<image>", "video_token": "<video>"}, CHATML.replace("IMAGE", "<image>\n")
    )


def save_llava_next(folder: Path) -> Path:
    """Write a random LLaVA-NeXT: 28-pixel tiles in one of four grids, and the whole picture."""
    torch.manual_seed(12)
    tokenizer = _llava_tokenizer()
    grids = [[28, 56], [56, 28], [56, 56], [84, 28]]
    config = cast(Any, transformers.LlavaNextConfig)(
        vision_config=vision_config(model_type="clip_vision_model", image_size=28, patch_size=7),
        text_config=_text("mistral", len(tokenizer)).to_dict(),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=grids,
        image_seq_length=16,
    )
    save_checkpoint(folder, _random(config), tokenizer)
    image_processor = {
        "image_processor_type": "LlavaNextImageProcessor",
        "size": {"shortest_edge": 28},
        "crop_size": {"height": 28, "width": 28},
        "image_grid_pinpoints": grids,
    }
    save_processor(
        folder,
        "LlavaNextProcessor",
        image_processor,
        patch_size=7,
        num_additional_image_tokens=1,
        vision_feature_select_strategy="default",
    )
    return folder


def save_llava_onevision(folder: Path) -> Path:
    """Write a random LLaVA-OneVision."""
    torch.manual_seed(13)
    tokenizer = _llava_tokenizer()
    grids = [[28, 28], [28, 56], [56, 28], [56, 56]]
    config = cast(Any, transformers.LlavaOnevisionConfig)(
        vision_config=vision_config(model_type="siglip_vision_model", image_size=28, patch_size=7),
        text_config=_text("qwen2", len(tokenizer)).to_dict(),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_id=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=grids,
        vision_feature_select_strategy="full",
    )
    save_checkpoint(folder, _random(config), tokenizer)
    image_processor = {
        "image_processor_type": "LlavaOnevisionImageProcessor",
        "size": {"height": 28, "width": 28},
        "image_grid_pinpoints": grids,
    }
    save_processor(
        folder,
        "LlavaOnevisionProcessor",
        image_processor,
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        vision_aspect_ratio="anyres_max_9",
    )
    return folder


def _idefics(folder: Path, family: str, name: str) -> Path:
    """Write an Idefics3 or SmolVLM: tiles of 28 pixels, 4 tokens each, in rows and columns."""
    torch.manual_seed(14)
    marks = {
        "image_token": "<image>",
        "fake_image_token": "<fake_token_around_image>",
        "global_image_token": "<global-img>",
        "end_of_utterance_token": "<end_of_utterance>",
    } | {f"cell_{r}_{c}": f"<row_{r}_col_{c}>" for r in range(1, 5) for c in range(1, 5)}
    template = (
        "<|im_start|>{% for m in messages %}{{ m.role | capitalize }}"
        "{{ ':' if m.content[0].type == 'image' else ': ' }}{% for part in m.content %}"
        "{% if part.type == 'image' %}<image>{% else %}{{ part.text }}{% endif %}{% endfor %}"
        "<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
    )
    tokenizer: Any = byte_level_tokenizer(marks, template)
    config = transformers.AutoConfig.for_model(
        family,
        vision_config=vision_config(model_type=f"{family}_vision", image_size=28, patch_size=7),
        text_config=_text("llama", len(tokenizer), pad_token_id=0).to_dict(),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        pad_token_id=0,
        tie_word_embeddings=False,
    )
    save_checkpoint(folder, _random(config), tokenizer)
    image_processor = {
        "image_processor_type": f"{name}ImageProcessor",
        "size": {"longest_edge": 112},
        "max_image_size": {"longest_edge": 28},
    }
    save_processor(folder, f"{name}Processor", image_processor, image_seq_len=4)
    return folder


def save_idefics3(folder: Path) -> Path:
    """Write a random Idefics3."""
    return _idefics(folder, "idefics3", "Idefics3")


def save_smolvlm(folder: Path) -> Path:
    """Write a random SmolVLM."""
    return _idefics(folder, "smolvlm", "SmolVLM")


def save_gemma3(folder: Path) -> Path:
    """Write a random Gemma 3, whose picture tokens see each other in both directions."""
    torch.manual_seed(15)
    marks = {
        "boi_token": "<start_of_image>",
        "eoi_token": "<end_of_image>",
        "image_token": "<image_soft_token>",
        "turn_token": "<start_of_turn>",
        "end_token": "<end_of_turn>",
    }
    tokenizer: Any = byte_level_tokenizer(marks, TURNS)
    # Gemma's vocabulary has runs of line ends: those around a picture join what stands there.
    tokenizer.add_tokens([AddedToken("\n" * n, normalized=False) for n in (2, 3)])
    text = _text(
        "gemma3_text",
        len(tokenizer),
        sliding_window=12,
        layer_types=["sliding_attention", "full_attention"],
    )
    config = cast(Any, transformers.Gemma3Config)(
        vision_config=vision_config(model_type="siglip_vision_model", image_size=28, patch_size=7),
        text_config=text.to_dict(),
        mm_tokens_per_image=4,
        image_token_index=tokenizer.convert_tokens_to_ids("<image_soft_token>"),
        boi_token_index=tokenizer.convert_tokens_to_ids("<start_of_image>"),
        eoi_token_index=tokenizer.convert_tokens_to_ids("<end_of_image>"),
        tie_word_embeddings=False,
    )
    save_checkpoint(folder, _random(config), tokenizer)
    image_processor = {
        "image_processor_type": "Gemma3ImageProcessor",
        "size": {"height": 28, "width": 28},
    }
    save_processor(folder, "Gemma3Processor", image_processor, image_seq_length=4)
    return folder


def _pixtral(folder: Path, config_class: Any, merge: int, **changes: Any) -> Path:
    torch.manual_seed(16)
    marks = {
        "image_token": "[IMG]",
        "image_break_token": "[IMG_BREAK]",
        "image_end_token": "[IMG_END]",
        "instruction_token": "[INST]",
        "instruction_end_token": "[/INST]",
    }
    tokenizer: Any = byte_level_tokenizer(marks, INSTRUCTIONS)
    vision = vision_config(model_type="pixtral", image_size=56, patch_size=7, head_dim=12)
    config = config_class(
        vision_config=vision,
        text_config=_text("mistral", len(tokenizer)).to_dict(),
        image_token_index=tokenizer.convert_tokens_to_ids("[IMG]"),
        vision_feature_layer=-1,
        tie_word_embeddings=False,
        **changes,
    )
    save_checkpoint(folder, _random(config), tokenizer)
    image_processor = {
        "image_processor_type": "PixtralImageProcessor",
        "size": {"longest_edge": 56},
        "patch_size": {"height": 7, "width": 7},
    }
    save_processor(
        folder, "PixtralProcessor", image_processor, patch_size=7, spatial_merge_size=merge
    )
    return folder


def save_pixtral(folder: Path) -> Path:
    """Write a random Pixtral: pictures of any size, a token for each patch of 7 pixels."""
    return _pixtral(folder, transformers.LlavaConfig, 1, vision_feature_select_strategy="full")


def save_mistral3(folder: Path) -> Path:
    """Write a random Mistral 3 (Mistral Small 3.1): as Pixtral, 2 x 2 patches to a token."""
    return _pixtral(folder, transformers.Mistral3Config, 2, spatial_merge_size=2)


FAMILIES: dict[str, Callable[[Path], Path]] = {
    "InternVL": save_internvl,
    "LLaVA 1.5": save_llava,
    "LLaVA-NeXT": save_llava_next,
    "LLaVA-OneVision": save_llava_onevision,
    "Qwen2-VL": save_qwen2_vl,
    "Qwen2.5-VL": save_qwen2_5_vl,
    "Qwen3-VL": save_qwen3_vl,
    "Qwen3-VL-MoE": save_qwen3_vl_moe,
    "Idefics3": save_idefics3,
    "SmolVLM": save_smolvlm,
    "Gemma 3": save_gemma3,
    "Pixtral": save_pixtral,
    "Mistral 3": save_mistral3,
}


def _random(config: Any) -> Any:
    """A model with weights wide enough that greedy answers vary."""
    auto = cast(Any, transformers.AutoModelForImageTextToText)
    model = auto.from_config(config, dtype=torch.float32)
    for path, parameter in model.named_parameters():
        if parameter.dim() > 1 and "norm" not in path:
            torch.nn.init.normal_(parameter, std=0.3)
    return model
