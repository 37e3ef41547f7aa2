"""Tiny checkpoints in OpenGVLab's form: transformers' weights under their first names, fused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file

from tests.workers import checkpoints

Weights = dict[str, torch.Tensor]

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
AUTO_MAP = {
    "AutoConfig": "configuration_internvl_chat.InternVLChatConfig",
    "AutoModel": "modeling_internvl_chat.InternVLChatModel",
}
_RENAMED = {
    "model.vision_tower.embeddings.cls_token": "vision_model.embeddings.class_embedding",
    "model.vision_tower.embeddings.patch_embeddings.projection": (
        "vision_model.embeddings.patch_embedding"
    ),
    "model.vision_tower.embeddings.position_embeddings": (
        "vision_model.embeddings.position_embedding"
    ),
    "model.vision_tower.encoder.layer": "vision_model.encoder.layers",
    "attention.projection_layer": "attn.proj",
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "lambda_1": "ls1",
    "lambda_2": "ls2",
    "model.multi_modal_projector.layer_norm": "mlp1.0",
    "model.multi_modal_projector.linear_1": "mlp1.1",
    "model.multi_modal_projector.linear_2": "mlp1.3",
    "model.language_model": "language_model.model",
}
_INTERNLM2 = {
    "embed_tokens": "tok_embeddings",
    "self_attn.o_proj": "attention.wo",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.down_proj": "feed_forward.w2",
    "mlp.up_proj": "feed_forward.w3",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm",
}
ARCHITECTURES = {
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "llama": "LlamaForCausalLM",
    "phi3": "Phi3ForCausalLM",
    "internlm2": "InternLM2ForCausalLM",
}


def save_pair(folder: Path, language: str) -> tuple[Path, Path]:
    """Write the same random InternVL in transformers' form and in OpenGVLab's."""
    family = "llama" if language == "internlm2" else language
    ours = checkpoints.save_internvl(folder / "ours", family)
    processor = json.loads((ours / "processor_config.json").read_text())
    processor["image_processor"] |= {"image_mean": MEAN, "image_std": STD}
    (ours / "processor_config.json").write_text(json.dumps(processor))
    model = transformers.InternVLForConditionalGeneration.from_pretrained(ours)
    theirs = folder / "theirs"
    save(theirs, settings(model.config, language), rename(dict(model.state_dict()), model.config))
    for file in ("tokenizer.json", "chat_template.jinja", "generation_config.json"):
        shutil.copy(ours / file, theirs)
    tokenizer = json.loads((ours / "tokenizer_config.json").read_text())
    tokenizer = {k: v for k, v in tokenizer.items() if k in ("eos_token", "pad_token")}
    (theirs / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    return ours, theirs


def save(folder: Path, content: dict[str, Any], weights: Weights) -> None:
    """Write `config.json` and the weights, these in two files."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(content))
    fuse = _fuse_internlm2 if "InternLM2" in str(content["llm_config"]) else None
    fused = fuse(weights, content["llm_config"]) if fuse else weights
    names = sorted(fused)
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        tensors = {name: fused[name].contiguous().clone() for name in part}
        save_file(tensors, folder / f"model-0000{number}-of-00002.safetensors")


def settings(config: Any, language: str) -> dict[str, Any]:
    """Write a `config.json` as OpenGVLab's are."""
    vision, text = config.vision_config, config.text_config.to_dict()
    text |= {"architectures": [ARCHITECTURES[language]], "attn_implementation": "eager"}
    if language == "internlm2":
        text["bias"] = text.pop("attention_bias")
        text |= {"model_type": "internlm2", "rope_scaling": {"type": "dynamic", "factor": 2.0}}
    return {
        "architectures": ["InternVLChatModel"],
        "auto_map": AUTO_MAP,
        "model_type": "internvl_chat",
        "vision_config": {
            "architectures": ["InternVisionModel"],
            "hidden_size": vision.hidden_size,
            "intermediate_size": vision.intermediate_size,
            "num_hidden_layers": vision.num_hidden_layers,
            "num_attention_heads": vision.num_attention_heads,
            "image_size": vision.image_size[0],
            "patch_size": vision.patch_size[0],
            "norm_type": vision.norm_type,
            "qkv_bias": vision.attention_bias,
            "qk_normalization": vision.use_qk_norm,
        },
        "llm_config": text,
        "select_layer": -1,
        "ps_version": "v2",
        "downsample_ratio": 0.5,
        "force_image_size": 28,
        "dynamic_image_size": True,
        "use_thumbnail": True,
        "min_dynamic_patch": 1,
        "max_dynamic_patch": 4,
        "torch_dtype": "float32",
    }


def rename(weights: Weights, config: Any) -> Weights:
    """Give weights their first names; query, key and value of the vision tower become one."""
    named: Weights = {}
    for name, tensor in weights.items():
        for ours, theirs in _RENAMED.items():
            name = name.replace(ours, theirs)
        name = name.replace("lm_head", "language_model.lm_head")
        named[name] = tensor
    return _fuse(named, "attention.", "attn.qkv", lambda q, k, v: torch.cat([q, k, v]))


def _fuse(
    weights: Weights,
    prefix: str,
    name: str,
    join: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor],
) -> Weights:
    fused = {key: tensor for key, tensor in weights.items() if f".{prefix}" not in key}
    for key in weights.keys() - fused.keys():
        if "q_proj" in key:
            parts = (weights[key.replace("q_proj", f"{letter}_proj")] for letter in "qkv")
            fused[key.replace(f"{prefix}q_proj", name)] = join(*parts)
    return fused


def _fuse_internlm2(weights: Weights, language: dict[str, Any]) -> Weights:
    """Interleave: the query heads that share a key head, that key head, and its value head."""
    named: Weights = {}
    for name, tensor in weights.items():
        for ours, theirs in _INTERNLM2.items():
            name = name.replace(ours, theirs)
        named[name.replace("language_model.lm_head", "language_model.output")] = tensor
    heads, key_heads = language["num_attention_heads"], language["num_key_value_heads"]

    def join(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        queries, keys, values = q.chunk(heads), k.chunk(key_heads), v.chunk(key_heads)
        rows: list[torch.Tensor] = []
        for head in range(key_heads):
            sharing = heads // key_heads
            rows += [*queries[head * sharing : (head + 1) * sharing], keys[head], values[head]]
        return torch.cat(rows)

    return _fuse(named, "self_attn.", "attention.wqkv", join)
