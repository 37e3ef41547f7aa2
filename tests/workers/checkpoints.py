"""Tiny random checkpoints, so that engine tests run real models of several families on a CPU.

Weights are wide enough (`initializer_range`) that greedy answers vary from token to token.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)

cast(Any, transformers.utils.logging).disable_progress_bar()
torch.set_num_threads(1)  # tiny models only lose by more

CORPUS = [
    "The quick brown fox jumps over the lazy dog. Pack my box with five dozen liquor jugs!",
    "What colour is the circle? A red circle, two blue squares and a green triangle.",
    "user\nassistant\nsystem\nYou are a helpful assistant.\n\nHello there, how are you today?",
    "Größe, naïve café, 你好世界, emoji 😀🎉, code: def f(x): return x ** 2  # done",
] * 4

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}IMAGE\n{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CHAT_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
INTERNVL_TOKENS = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
    "video_token": "<video>",
}


def byte_level_tokenizer(
    extra: dict[str, str] | None = None, template: str = CHATML
) -> transformers.PreTrainedTokenizerFast:
    """A GPT-2-style tokenizer with ChatML tokens and a non-special `<think>`."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=CHAT_TOKENS + list((extra or {}).values()),
        show_progress=False,
    )
    backend.train_from_iterator(CORPUS, trainer)
    backend.add_tokens([AddedToken("<think>", normalized=False)])
    return cast(Any, transformers.PreTrainedTokenizerFast)(  # type: ignore[no-any-return]
        tokenizer_object=backend,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=extra or {},
        chat_template=template,
    )


def metaspace_tokenizer(scheme: str, template: str) -> transformers.PreTrainedTokenizerFast:
    """A SentencePiece-style tokenizer with byte fallback; `scheme` as in the pre-tokenizer."""
    backend = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    if scheme == "legacy":
        backend.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))],
        show_progress=False,
    )
    backend.train_from_iterator([line.replace(" ", "▁") for line in CORPUS], trainer)
    state = json.loads(backend.to_str())  # the byte tokens are vocabulary, not control tokens
    state["added_tokens"] = state["added_tokens"][:3]
    backend = Tokenizer.from_str(json.dumps(state))
    return cast(Any, transformers.PreTrainedTokenizerFast)(  # type: ignore[no-any-return]
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        chat_template=template,
    )


def unigram_tokenizer(template: str) -> transformers.PreTrainedTokenizerFast:
    """A tokenizer whose vocabulary spells `</s>` in one piece."""
    vocabulary = [("<unk>", 0.0), ("</s>", 0.0), *((chr(code), -9.0) for code in range(32, 127))]
    return cast(Any, transformers.PreTrainedTokenizerFast)(  # type: ignore[no-any-return]
        tokenizer_object=Tokenizer(models.Unigram(vocabulary, unk_id=0)),
        eos_token="</s>",
        unk_token="<unk>",
        chat_template=template,
    )


def text_config(family: str, vocab_size: int, **changes: Any) -> Any:
    """A configuration with two small layers and grouped-query attention."""
    config = transformers.AutoConfig.for_model(family)
    values = {
        "vocab_size": vocab_size,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 256,
        "initializer_range": 0.4,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
        "tie_word_embeddings": False,
    }
    return type(config)(**values | changes)


def save_text_model(folder: Path, family: str, **changes: Any) -> Path:
    """Write a random causal language model of a family, with the byte-level tokenizer."""
    torch.manual_seed(len(family))
    tokenizer = byte_level_tokenizer()
    config = text_config(family, len(tokenizer), **changes)
    model = cast(Any, transformers.AutoModelForCausalLM).from_config(config, dtype=torch.float32)
    save_checkpoint(folder, model, tokenizer)
    return folder


def save_internvl(folder: Path, family: str = "qwen2") -> Path:
    """Write a random InternVL: 28-pixel tiles of 4 tokens each, at most 4 tiles and a thumbnail."""
    torch.manual_seed(5)
    tokenizer: Any = byte_level_tokenizer(
        INTERNVL_TOKENS, CHATML.replace("IMAGE", INTERNVL_TOKENS["context_image_token"])
    )
    config = transformers.InternVLConfig(
        vision_config=vision_config(image_size=[28, 28], patch_size=[7, 7]),
        text_config=text_config(family, len(tokenizer)).to_dict(),
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
    )
    save_checkpoint(folder, transformers.InternVLForConditionalGeneration(config), tokenizer)
    image_processor = {
        "image_processor_type": "GotOcr2ImageProcessor",
        "size": {"height": 28, "width": 28},
        "crop_to_patches": True,
        "min_patches": 1,
        "max_patches": 4,
    }
    save_processor(folder, "InternVLProcessor", image_processor, image_seq_length=4)
    return folder


def save_llava(folder: Path) -> Path:
    """Write a random LLaVA: one 28-pixel square of 16 tokens for each picture."""
    torch.manual_seed(6)
    tokenizer: Any = byte_level_tokenizer(
        {"image_token": "<image>"}, CHATML.replace("IMAGE", "<image>")
    )
    config = cast(Any, transformers.LlavaConfig)(
        vision_config=vision_config(model_type="clip_vision_model", image_size=28, patch_size=7),
        text_config=text_config("llama", len(tokenizer)).to_dict(),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=16,
    )
    save_checkpoint(folder, transformers.LlavaForConditionalGeneration(config), tokenizer)
    image_processor = {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": 28},
        "crop_size": {"height": 28, "width": 28},
    }
    save_processor(
        folder,
        "LlavaProcessor",
        image_processor,
        patch_size=7,
        num_additional_image_tokens=1,
        vision_feature_select_strategy="default",
    )
    return folder


def save_paligemma(folder: Path) -> Path:
    """Write a random PaliGemma, whose whole prompt attends in both directions."""
    tokenizer: Any = byte_level_tokenizer({"image_token": "<image>"})
    tokenizer.add_special_tokens({"bos_token": "<bos>"})
    config = cast(Any, transformers.PaliGemmaConfig)(
        vision_config=vision_config(
            model_type="siglip_vision_model", image_size=28, patch_size=7, projection_dim=32
        ),
        text_config=text_config("gemma", len(tokenizer)).to_dict(),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        projection_dim=32,
        hidden_size=32,
    )
    save_checkpoint(folder, transformers.PaliGemmaForConditionalGeneration(config), tokenizer)
    image_processor = {
        "image_processor_type": "SiglipImageProcessor",
        "size": {"height": 28, "width": 28},
        "image_seq_length": 16,
    }
    save_processor(folder, "PaliGemmaProcessor", image_processor)
    return folder


def vision_config(**changes: Any) -> dict[str, Any]:
    return {
        "hidden_size": 24,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "initializer_range": 0.4,
        **changes,
    }


def save_checkpoint(folder: Path, model: Any, tokenizer: Any) -> None:
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def save_processor(
    folder: Path, name: str, image_processor: dict[str, Any], **settings: Any
) -> None:
    content = {"processor_class": name, "image_processor": image_processor, **settings}
    (folder / "processor_config.json").write_text(json.dumps(content))
