"""InternVL in OpenGVLab's own form answers as the same weights in transformers' form do."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from broker.errors import ConfigurationError
from tests.workers import originals
from tests.workers.checkpoints import byte_level_tokenizer
from tests.workers.reference import generate, ids, load, picture, request, run
from workers.engines import opengvlab
from workers.engines.opengvlab.configuration import translate_config, translate_processor
from workers.engines.opengvlab.sentencepiece import read_model
from workers.engines.opengvlab.tokenizer import load_tokenizer
from workers.scheduler import Scheduler

GOLDEN = json.loads(Path(__file__).with_name("opengvlab.json").read_text(encoding="utf-8"))
"""What OpenGVLab's own code computed from weights and pixels that a formula gives, and the ids that
SentencePiece gives to texts."""


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    return originals.save_pair(tmp_path, "internlm2")


def original(folder: Path) -> opengvlab.Original:
    settings = json.loads((folder / "config.json").read_text())
    found = opengvlab.recognise(str(folder), settings)
    assert found is not None
    return found


def change(folder: Path, edit: Callable[[dict[str, Any]], object]) -> opengvlab.Original:
    """Edit `config.json`."""
    settings = json.loads((folder / "config.json").read_text())
    edit(settings)
    (folder / "config.json").write_text(json.dumps(settings))
    return original(folder)


@pytest.mark.parametrize("language", originals.ARCHITECTURES)
def test_it_answers_as_transformers_own_form_does(language: str, tmp_path: Path) -> None:
    ours, theirs = originals.save_pair(tmp_path, language)
    engine, twin = load(theirs), load(ours)
    parts = [picture(n, size) for n, size in enumerate([(60, 30), (28, 28), (90, 40)])]
    images = {part.sha256: data for part, data in parts}
    scheduler = Scheduler(engine)
    expected = {}
    for count in (0, 1, 3):
        asked = request(str(count), *(part for part, _ in parts[:count]), "What?", max_tokens=12)
        sequence = engine.prepare(asked, images)
        assert sequence.prompt_ids == twin.prepare(asked, images).prompt_ids
        expected[str(count)] = generate(ours, sequence)
        scheduler.add(sequence)
    assert len({tuple(answer) for answer in expected.values()}) == 3
    assert {key: ids(outputs) for key, outputs in run(scheduler).items()} == expected


@pytest.mark.parametrize("kind", GOLDEN["models"])
def test_it_computes_what_the_original_code_did(kind: str, tmp_path: Path) -> None:
    golden = GOLDEN["models"][kind]
    weights = {}
    for place, (name, shape) in enumerate(golden["names"].items()):
        n = torch.arange(torch.Size(shape).numel(), dtype=torch.float64)
        values = 0.4 * torch.sin(n * n * 0.37 + place * 1.3 + n)
        weights[name] = values.reshape(shape).float()
    save_file(weights, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(golden["config"]))
    config = transformers.InternVLConfig(**translate_config(golden["config"], 3, tied=False))
    model: Any = original(tmp_path).load(config, dtype=torch.float32)
    n = torch.arange(2 * 3 * 28 * 28, dtype=torch.float64)
    pixels = torch.sin(n * 0.013 + n * n * 0.0007).reshape(2, 3, 28, 28).float()
    with torch.inference_mode():
        features = model.get_image_features(pixels).pooler_output
        embeddings = model.get_input_embeddings()(torch.arange(5, 16)[None])
        embeddings[0, 2:10] = features.reshape(8, -1)
        logits = model(inputs_embeds=embeddings).logits[0, -1]
    wanted = torch.tensor(golden["features"])
    torch.testing.assert_close(features.reshape(8, -1)[3:5], wanted, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(logits, torch.tensor(golden["logits"]), rtol=1e-4, atol=1e-4)


def test_its_settings_become_transformers_settings() -> None:
    config = translate_config(GOLDEN["models"]["rms_norm"]["config"], 7, tied=False)
    assert (config["image_token_id"], config["image_seq_length"]) == (7, 4)
    assert (config["template"], str(config["dtype"])) == ("internlm2-chat", "float32")
    vision, text = config["vision_config"], config["text_config"]
    assert (vision["use_qk_norm"], vision["attention_bias"]) == (True, False)
    assert vision["norm_type"] == "rms_norm"
    assert (text["model_type"], text["attention_bias"]) == ("llama", False)
    assert text["rope_parameters"] == {"rope_theta": 10000, "rope_type": "default"}
    processor = translate_processor(GOLDEN["models"]["rms_norm"]["config"])["image_processor"]
    assert (processor["max_patches"], processor["size"]) == (4, {"height": 28, "width": 28})


def test_the_template_it_names_replaces_its_tokenizers_own(pair: tuple[Path, Path]) -> None:
    _, theirs = pair
    with original(theirs).translated() as folder:
        assert transformers.AutoTokenizer.from_pretrained(folder).chat_template
    with change(theirs, lambda s: s.update(template="internlm2-chat")).translated() as folder:
        assert transformers.AutoTokenizer.from_pretrained(folder).chat_template is None
        config: Any = transformers.AutoConfig.from_pretrained(folder)
        assert config.template == "internlm2-chat"
    assert not Path(folder).exists()


def test_a_head_that_is_the_embedding_need_not_be_there(tmp_path: Path) -> None:
    _, theirs = originals.save_pair(tmp_path, "qwen2")
    for file in theirs.glob("*.safetensors"):
        weights = load_file(file)
        weights.pop("language_model.lm_head.weight", None)
        save_file(weights, file)
    model = load(theirs).runner._model
    embedding = model.get_input_embeddings().weight
    assert torch.equal(model.get_output_embeddings().weight, embedding)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("edit", "sentence"),
    [
        (lambda s: s.update(ps_version="v1"), "ps_version 'v1' is not supported"),
        (lambda s: s.update(select_layer=-4), "select_layer -4 is not supported"),
        (lambda s: s.update(use_thumbnail=False), "without use_thumbnail"),
        (lambda s: s["llm_config"].update(architectures=["MoonLM"]), "language model MoonLM"),
    ],
)
def test_what_has_no_counterpart_is_refused(
    pair: tuple[Path, Path], edit: Callable[[dict[str, Any]], object], sentence: str
) -> None:
    change(pair[1], edit)
    with pytest.raises(ConfigurationError, match=sentence):
        load(pair[1])


def test_weights_that_are_missing_or_too_many_are_named(pair: tuple[Path, Path]) -> None:
    _, theirs = pair
    file = next(f for f in theirs.glob("*.safetensors") if "mlp1.0.bias" in load_file(f))
    weights = load_file(file)
    weights["language_model.surprise"] = weights.pop("mlp1.0.bias")
    save_file(weights, file)
    with pytest.raises(ConfigurationError, match=r"2 weights are missing .*language_model\.surpr"):
        load(theirs)
    for each in theirs.glob("*.safetensors"):
        each.unlink()
    with pytest.raises(ConfigurationError, match="there are no weights"):
        load(theirs)


def test_its_tokenizer_may_come_as_vocabulary_and_merges(pair: tuple[Path, Path]) -> None:
    _, theirs = pair
    whole: Any = load_tokenizer(theirs)
    content = json.loads((theirs / "tokenizer.json").read_text())
    (theirs / "tokenizer.json").unlink()
    vocabulary = content["model"]["vocab"]
    (theirs / "vocab.json").write_text(json.dumps(vocabulary))
    merges = "\n".join(" ".join(pair) for pair in content["model"]["merges"])
    (theirs / "merges.txt").write_text(f"#version: 0.2\n{merges}\n")
    settings = json.loads((theirs / "tokenizer_config.json").read_text())
    settings["added_tokens_decoder"] = {
        str(token.pop("id")): token for token in content["added_tokens"]
    }
    (theirs / "tokenizer_config.json").write_text(json.dumps(settings))
    again: Any = load_tokenizer(theirs)
    text = "<|im_start|>user\n<img><IMG_CONTEXT></img>The quick brown fox"
    assert again(text).input_ids == whole(text).input_ids
    assert again.context_image_token_id == whole.context_image_token_id
    (theirs / "vocab.json").unlink()
    with pytest.raises(ConfigurationError, match="no tokenizer; looked for"):
        load_tokenizer(theirs)


def test_a_tokenizer_without_picture_tokens_is_refused(pair: tuple[Path, Path]) -> None:
    byte_level_tokenizer().save_pretrained(pair[1])
    with pytest.raises(ConfigurationError, match="has no token <img>"):
        load(pair[1])


@pytest.mark.parametrize("kind", GOLDEN["sentencepiece"])
def test_a_sentencepiece_model_gives_sentencepieces_ids(kind: str) -> None:
    golden = GOLDEN["sentencepiece"][kind]
    tokenizer = read_model(base64.b64decode(golden["model"]))
    for text, expected in golden["cases"]:
        assert tokenizer.encode(text).ids == expected, text
        if "  " not in text[:2]:
            assert tokenizer.decode(expected) == text


def give_sentencepiece(folder: Path, **more: int) -> bytes:
    """Replace a tokenizer by a SentencePiece model with added tokens; return the model."""
    for name in ("tokenizer.json", "chat_template.jinja"):
        (folder / name).unlink(missing_ok=True)
    model = base64.b64decode(GOLDEN["sentencepiece"]["plain"]["model"])
    (folder / "tokenizer.model").write_bytes(model)
    added = {"<unk>": 0, "<s>": 1, "</s>": 2, "<|im_end|>": 3}
    added |= {"<img>": 390, "</img>": 391, "<IMG_CONTEXT>": 392} | more
    settings = {
        "auto_map": {"AutoTokenizer": ["tokenization_internlm2.InternLM2Tokenizer", None]},
        "bos_token": "<s>",
        "eos_token": "</s>",
        "added_tokens_decoder": {
            str(i): {"content": content, "special": True} for content, i in added.items()
        },
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return model


def test_added_tokens_stand_over_and_behind_the_pieces(pair: tuple[Path, Path]) -> None:
    _, theirs = pair
    plain = read_model(give_sentencepiece(theirs))
    with original(theirs).translated() as folder:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        config = transformers.AutoConfig.from_pretrained(folder)
    told = tokenizer("Hello<|im_end|><img><IMG_CONTEXT></img>the").input_ids
    expected = [*plain.encode("Hello").ids, 3, 390, 392, 391, *plain.encode("the").ids]
    assert told == [1, *expected]
    assert (tokenizer.eos_token_id, config.image_token_id) == (2, 392)
    give_sentencepiece(theirs, **{"<box>": 394})
    with pytest.raises(ConfigurationError, match="<box> cannot get id 394"):
        load(theirs)


def test_a_checkpoint_with_a_sentencepiece_model_answers(pair: tuple[Path, Path]) -> None:
    _, theirs = pair
    give_sentencepiece(theirs)
    engine = load(theirs)
    part, data = picture(3, (60, 30))
    scheduler = Scheduler(engine)
    sequence = engine.prepare(request("r", part, "Hello", max_tokens=4), {part.sha256: data})
    assert sequence.prompt_ids.count(392) == 3 * 4
    scheduler.add(sequence)
    assert len(ids(run(scheduler)["r"])) == 4


@pytest.mark.parametrize("data", [b"", b"\xff" * 40, b"\x0a\x7f", b"\x0a\x02\x0a\xff", b"{}"])
def test_what_is_no_sentencepiece_model_is_refused(data: bytes) -> None:
    with pytest.raises(ConfigurationError, match=r"tokenizer\.model"):
        read_model(data)
