"""A model in one GGUF file is served like the checkpoint it was made from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import transformers

from broker.errors import ConfigurationError
from tests.workers.reference import generate, ids, load, request, run
from workers.scheduler import Scheduler


def write_gguf(folder: Path, file: Path) -> None:
    """Write a llama checkpoint as other programs do, in float32."""
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    config, state = model.config, model.state_dict()
    writer = gguf.GGUFWriter(str(file), "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(config.vocab_size)
    _add_tokenizer(writer, folder)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, tensor in state.items():
        weights = tensor.numpy()
        for part, heads in (
            ("q_proj", config.num_attention_heads),
            ("k_proj", config.num_key_value_heads),
        ):
            if part in name:
                weights = _interleave(weights, heads)
        found = names.get_name(name, try_suffixes=(".weight",))
        assert found is not None, name
        writer.add_tensor(found, np.ascontiguousarray(weights))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _interleave(weights: Any, heads: int) -> Any:
    """Rotary pairs side by side, as GGUF has them."""
    halves = weights.reshape(heads, 2, weights.shape[0] // heads // 2, weights.shape[1])
    return halves.swapaxes(1, 2).reshape(weights.shape)


def _add_tokenizer(writer: gguf.GGUFWriter, folder: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    special = {each["id"]: each["special"] for each in state["added_tokens"]}
    tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    kinds = {
        None: gguf.TokenType.NORMAL,
        True: gguf.TokenType.CONTROL,
        False: gguf.TokenType.USER_DEFINED,
    }
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types([kinds[special.get(token_id)] for token_id in range(len(tokens))])
    writer.add_token_merges([" ".join(pair) for pair in state["model"]["merges"]])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_chat_template(tokenizer.chat_template)


def test_answers_from_a_gguf_file_are_those_of_the_checkpoint(llama: Path, tmp_path: Path) -> None:
    file = tmp_path / "tiny.gguf"
    write_gguf(llama, file)
    engine, original = load(file, dtype="float32"), load(llama)
    scheduler, expected = Scheduler(engine), {}
    for number in range(4):
        asked = request(str(number), "The quick brown fox " * (1 + number), max_tokens=20)
        sequence = engine.prepare(asked, {})
        assert sequence.prompt_ids == original.prepare(asked, {}).prompt_ids
        expected[str(number)] = generate(llama, sequence)
        scheduler.add(sequence)
    assert {name: ids(answer) for name, answer in run(scheduler).items()} == expected


def test_a_file_that_is_no_gguf_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "broken.gguf"
    file.write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(ConfigurationError, match=r"broken\.gguf"):
        load(file)
