"""The demo model's architecture and its checkpoint folder, in transformers' own format.

An InternVL of 4.2 million weights: 112-pixel tiles of 8 x 8 patches, pixel shuffle to 16
tokens per tile, and a five-layer Qwen2. Knows nothing of scenes or training.
"""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import (
    GenerationConfig,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLVisionConfig,
    Qwen2Config,
)

from workers.demo.prompts import (
    CHAT_TEMPLATE,
    TOKENIZER_SETTINGS,
    TOKENS_PER_TILE,
    VOCABULARY,
    Encoder,
)

IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)
MAX_TILES = 4
CONTEXT = 2048


def build_model(encoder: Encoder) -> InternVLForConditionalGeneration:
    """Return a fresh model for this tokenizer."""
    vision = InternVLVisionConfig(
        hidden_size=192,
        num_hidden_layers=4,
        num_attention_heads=3,
        intermediate_size=576,
        attention_bias=True,
        image_size=112,
        patch_size=14,
        initializer_range=0.05,
        layer_scale_init_value=1.0,
        use_mean_pooling=False,
    )
    text = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=192,
        num_hidden_layers=5,
        num_attention_heads=3,
        num_key_value_heads=3,
        intermediate_size=512,
        max_position_embeddings=CONTEXT,
        initializer_range=0.05,
        tie_word_embeddings=True,
        eos_token_id=encoder.end,
        pad_token_id=0,
        bos_token_id=None,
    )
    config = InternVLConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=encoder.image[2],
        image_seq_length=TOKENS_PER_TILE,
        tie_word_embeddings=True,
    )
    model = InternVLForConditionalGeneration(config)
    with torch.no_grad():
        tower = model.model.vision_tower.embeddings
        tower.position_embeddings.normal_(std=0.1)
        tower.position_embeddings[0, 1:] += coordinates(tower.position_embeddings.shape[-1])
        tower.cls_token.normal_(std=0.1)
    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        eos_token_id=encoder.end, pad_token_id=0, do_sample=False, max_new_tokens=128
    )
    return model


def coordinates(width: int, cells: int = 8) -> torch.Tensor:
    """Return (64, width) features of each patch's place, so that position is there to be read.

    Learned position embeddings alone took most of the training to grow beside the patches.
    """
    line = (torch.arange(cells) + 0.5) * 2 / cells - 1
    down, across = torch.meshgrid(line, line, indexing="ij")
    waves = [f(torch.pi * axis) for f in (torch.sin, torch.cos) for axis in (across, down)]
    features = torch.stack([across, down, across * down, *waves], -1).view(cells * cells, -1)
    directions = torch.linalg.qr(torch.randn(width, features.shape[-1]))[0].T
    placed = features @ directions
    scaled: torch.Tensor = 0.8 * placed / placed.square().mean().sqrt()
    return scaled


def image_settings() -> dict[str, Any]:
    """Return the image processor's configuration."""
    return {
        "image_processor_type": "GotOcr2ImageProcessor",
        "crop_to_patches": True,
        "min_patches": 1,
        "max_patches": MAX_TILES,
        "size": {"height": 112, "width": 112},
        "resample": 3,
        "do_resize": True,
        "do_convert_rgb": True,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(IMAGE_MEAN),
        "image_std": list(IMAGE_STD),
    }


def save_checkpoint(model: InternVLForConditionalGeneration, folder: Path) -> None:
    """Write weights and settings beside the tokenizer; files change by renaming only."""
    fresh = folder.with_name(folder.name + ".new")
    model.save_pretrained(fresh)
    video = {"video_processor_type": "InternVLVideoProcessor"} | {
        key: value
        for key, value in image_settings().items()
        if key in ("size", "do_resize", "do_normalize", "do_rescale", "image_mean", "image_std")
    }
    write_json(fresh / "preprocessor_config.json", image_settings())
    write_json(fresh / "video_preprocessor_config.json", video)
    processor = {"processor_class": "InternVLProcessor", "image_seq_length": TOKENS_PER_TILE}
    write_json(fresh / "processor_config.json", processor)
    write_json(fresh / "tokenizer_config.json", TOKENIZER_SETTINGS)
    (fresh / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    folder.mkdir(parents=True, exist_ok=True)
    for file in sorted(fresh.iterdir()):
        file.chmod(0o644)
        file.replace(folder / file.name)
    fresh.rmdir()


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write indented JSON."""
    path.write_text(json.dumps(content, indent=2) + "\n")
