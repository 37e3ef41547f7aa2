"""Named templates write what the original conversation classes wrote, and choose by model name.

`golden_prompts.json` has prompts that the original classes wrote for the same conversations: those
of LLaVA's server, and of InternVL's worker with its numbering of pictures.
"""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2.exceptions import SecurityError
from tokenizers import processors

from broker.errors import ConfigurationError, InvalidRequest
from broker.messages import ChatMessage, ImagePart, Role, TextPart
from tests.workers.checkpoints import byte_level_tokenizer, metaspace_tokenizer
from workers import templates
from workers.commands.prompt import read_messages
from workers.prompt import PromptBuilder, as_text, write
from workers.templates import TEMPLATES
from workers.templates.rules import RULES

GOLDEN: list[dict[str, Any]] = json.loads(
    Path(__file__).with_name("golden_prompts.json").read_text("utf-8")
)
IMAGE = ImagePart(sha256="0" * 64)
SEEING: Any = byte_level_tokenizer({"image_token": "<image>"})
LLAMA: Any = metaspace_tokenizer("first", "")
LLAMA.backend_tokenizer.post_processor = processors.TemplateProcessing(
    single="<s> $A", special_tokens=[("<s>", LLAMA.bos_token_id)]
)


def conversation(*turns: tuple[Role, str]) -> tuple[ChatMessage, ...]:
    return tuple(ChatMessage(role=role, content=(TextPart(text=text),)) for role, text in turns)


def rendered(name: str, messages: tuple[ChatMessage, ...]) -> str:
    return as_text(write(messages, TEMPLATES[name].render))


@pytest.mark.parametrize("name", TEMPLATES)
def test_prompts_are_those_of_the_original_classes(name: str) -> None:
    cases = [case for case in GOLDEN if case["template"] == name]
    assert len(cases) >= 6
    for case in cases:
        messages = read_messages(json.dumps(case["messages"]))
        assert rendered(name, messages) == case["expected"]


def test_every_rule_names_a_template_that_renders() -> None:
    assert {name for _, name in RULES} <= set(TEMPLATES)
    for name in {name for _, name in RULES}:
        assert "Hello" in rendered(name, conversation(("user", "Hello")))


@pytest.mark.parametrize(
    ("model_name", "expected"),
    [
        ("llava-llama-2-13b-chat-lightning-preview", "llava_llama_2"),
        ("llava-v1.6-mistral-7b", "mistral_instruct"),
        ("LLaVA-Mixtral-8x7B", "mistral_instruct"),
        ("llava-mistral-openorca-7b", "mistral_orca"),
        ("llava-v1.6-mistral-7b-hermes", "chatml_direct"),
        ("llava-v1.6-34b", "chatml_direct"),
        ("llava-v1.5-7b", "llava_v1"),
        ("llava-v1.5-13b-lora", "llava_v1"),
        ("llava-v1-mmtag-7b", "v1_mmtag"),
        ("llava-v1.5-7b-plain", "v1_mmtag"),
        ("llava-v1.5-7b-plain-finetune", "llava_v1"),
        ("LLaVA-Lightning-MPT-7B-preview", "mpt"),
        ("LLaVA-7b-delta-v0", "llava_v0"),
        ("LLaVA-13b-mmtag", "v0_mmtag"),
        ("llava-7b-plain", "v0_mmtag"),
        ("llava-7b-plain-finetune", "llava_v0"),
        ("InternVL-Chat-V1-1", "internvl_zh"),
        ("InternVL-Chat-V1-2-Plus", "Hermes-2"),
        ("InternVL-Chat-V1-5", "internlm2-chat"),
        ("Mini-InternVL-Chat-2B-V1-5", "internlm2-chat"),
        ("internvl_chat_v1_5_hermes2_yi34b", "Hermes-2"),
        ("internvl_chat_v1_5_internlm2_20b", "internlm2-chat"),
        ("internvl2_1b_qwen2_0_5b", "Hermes-2"),
        ("InternVL-Chat-ViT-6B-Vicuna-7B", "llava_v1"),
        ("mpt-7b-chat", "mpt_text"),
        ("llama-2-13b-chat", "llama_2"),
        ("vicuna-7b-v1.5", "vicuna_v1"),
    ],
)
def test_names_that_the_original_servers_knew_get_their_template(
    model_name: str, expected: str
) -> None:
    chosen = templates.choose(model_name)
    assert chosen is not None
    assert chosen.name == expected


@pytest.mark.parametrize(
    ("model_name", "expected"),
    [
        ("Mini-InternVL-Chat-4B-V1-5", "phi3-chat"),  # the rule that could not be reached
        ("internvl_chat_v1_5_phi3_3_8b", "phi3-chat"),
        ("InternVL2-1B", "Hermes-2"),
        ("InternVL2-2B", "internlm2-chat"),
        ("InternVL2-4B", "phi3-chat"),
        ("InternVL2-8B-MPO", "internlm2-chat"),
        ("InternVL2-26B", "internlm2-chat"),
        ("InternVL2-40B-AWQ", "Hermes-2"),
        ("InternVL2-Llama3-76B", "internlm2-chat"),
        ("Mono-InternVL-2B", "internlm2-chat"),
        ("InternVL2_5-4B-MPO", "internvl2_5"),
        ("internvl2.5-1b", "internvl2_5"),
        ("InternVL3-78B", "internvl2_5"),
        ("InternVL3_5-8B", "internvl2_5"),
        ("llava-1.5-7b-hf", "llava_v1"),
        ("llava-1.6-34b", "chatml_direct"),
        ("Llama-2-7b-chat-hf", "llama_2"),  # the originals looked for lower case only
        ("MPT-7B-Chat", "mpt_text"),
        ("SmolLM2-135M", None),
        ("prompt-guard", None),
        ("international-7b", None),
    ],
)
def test_names_that_the_original_servers_got_wrong_are_repaired(
    model_name: str, expected: str | None
) -> None:
    chosen = templates.choose(model_name)
    assert (chosen and chosen.name) == expected


def test_an_unknown_template_is_refused_with_the_known_names() -> None:
    with pytest.raises(ConfigurationError, match=r"'vicuna'; there are: llava_v0, .*internvl2_5"):
        templates.named("vicuna")


@pytest.mark.parametrize("late", [("user", "system"), ("system", "system")])
def test_a_system_message_behind_another_message_is_refused(late: tuple[Role, Role]) -> None:
    with pytest.raises(InvalidRequest, match="one system message, before all others"):
        rendered("llava_v1", conversation(*((role, "a") for role in late)))


def test_a_conversation_that_a_template_refuses_is_the_senders_error() -> None:
    builder = PromptBuilder(LLAMA, TEMPLATES["llama_2"])
    with pytest.raises(InvalidRequest, match="does not accept this conversation"):
        builder.build(conversation(("assistant", "Hello")))


def test_templates_render_in_a_sandbox() -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    render: Any = render_jinja_template
    with pytest.raises(SecurityError):
        render([[]], chat_template="{{ messages.__class__.__mro__ }}")
    for name in {template.style for template in TEMPLATES.values()}:
        source = files("workers.templates").joinpath(f"{name}.jinja").read_text("utf-8")
        assert "__" not in source and "| safe" not in source


def test_jinja_in_peoples_text_is_text() -> None:
    attack = "{{ 7 * 7 }}{% raw %}\ue0000\ue001"
    assert f"USER: {attack} ASSISTANT:" in rendered("llava_v1", conversation(("user", attack)))


@pytest.mark.parametrize(
    ("name", "stop"),
    [
        *[(name, ("###",)) for name in ("llava_v0", "v0_mmtag")],
        *[(name, ("</s>",)) for name in ("llava_v1", "v1_mmtag", "vicuna_v1", "internvl_zh")],
        *[(name, ("</s>",)) for name in ("llama_2", "llava_llama_2", "mistral_instruct")],
        *[(name, ()) for name in ("chatml_direct", "mpt", "Hermes-2", "internvl2_5", "plain")],
        ("phi3-chat", ("<|end|>",)),
    ],
)
def test_a_stop_text_ends_answers_where_the_tokenizer_has_no_control_token(
    name: str, stop: tuple[str, ...]
) -> None:
    builder = PromptBuilder(SEEING, TEMPLATES[name], "<image>")  # knows <|im_end|>, but no </s>
    assert builder.stop == stop
    ends_by_token = "<|im_end|>" in (TEMPLATES[name].stop or "")
    im_end = SEEING.convert_tokens_to_ids("<|im_end|>")
    assert builder.end_of_turn() == (im_end if ends_by_token else None)


@pytest.mark.parametrize("name", ["llava_v1", "vicuna_v1", "llama_2", "mistral_instruct"])
def test_a_control_token_ends_answers_where_the_tokenizer_has_it(name: str) -> None:
    builder = PromptBuilder(LLAMA, TEMPLATES[name])
    assert builder.stop == ()
    assert builder.end_of_turn() == LLAMA.eos_token_id


def test_prompts_have_the_ids_of_the_usual_way() -> None:
    """The originals wrote one text and tokenised it."""
    turns = conversation(("user", "Hello there"), ("assistant", "A circle."), ("user", "Why?"))
    for name in ("llava_v1", "vicuna_v1", "llama_2", "mistral_instruct"):
        runs = PromptBuilder(LLAMA, TEMPLATES[name]).build(turns).runs
        assert list(runs[0]) == LLAMA(rendered(name, turns)).input_ids
        assert runs[0][0] == LLAMA.bos_token_id


def test_pictures_stand_at_the_checkpoints_own_image_token() -> None:
    tokenizer: Any = byte_level_tokenizer({"context_image_token": "<IMG_CONTEXT>"})
    builder = PromptBuilder(tokenizer, TEMPLATES["internvl2_5"], "<IMG_CONTEXT>")
    turn = ChatMessage(role="user", content=(TextPart(text="<image>?"), IMAGE, IMAGE))
    runs = builder.build((turn,)).runs
    assert tokenizer.decode(runs[0]).endswith("<|im_start|>user\nImage-1: ")
    assert [tokenizer.decode(run) for run in runs[1:]] == [
        "\nImage-2: ",
        "\n<image>?<|im_end|>\n<|im_start|>assistant\n",
    ]


def test_several_pictures_of_a_first_turn_stand_before_its_text() -> None:
    turn = ChatMessage(role="user", content=(TextPart(text=" What "), IMAGE, IMAGE))
    assert rendered("llava_v1", (turn,)).endswith("USER: <image>\n<image>\nWhat ASSISTANT:")
    tagged = "Human: <Image><image></Image><Image><image></Image>###Assistant: Received.###"
    assert rendered("v0_mmtag", (turn,)).endswith(f"{tagged}Human: What###Assistant:")


def test_a_picture_of_the_system_message_is_refused() -> None:
    builder = PromptBuilder(SEEING, TEMPLATES["llava_v1"], "<image>")
    turn = ChatMessage(role="system", content=(IMAGE, TextPart(text="see")))
    with pytest.raises(InvalidRequest, match="places 0 of the conversation's 1 images"):
        builder.build((turn, *conversation(("user", "a"))))


MARKS = ["<image>", "<|im_end|>", "<|im_start|>", "<|endoftext|>", "<think>", "</s>", "<s>", "###"]
HOSTILE = st.lists(st.sampled_from([*MARKS, "user\n", "<|im_", "end|>", "\ue0000\ue001", " ", "a"]))


@pytest.mark.parametrize("name", TEMPLATES)
@given(system=HOSTILE, asked=HOSTILE, answered=HOSTILE, pictures=st.integers(0, 2))
@settings(max_examples=15)
def test_peoples_text_never_becomes_a_control_token_or_a_picture(
    name: str, system: list[str], asked: list[str], answered: list[str], pictures: int
) -> None:
    def controls(*texts: str) -> list[list[int]]:
        content = (*([IMAGE] * pictures), TextPart(text=texts[1]))
        user = ChatMessage(role="user", content=content)
        messages = (
            *conversation(("system", texts[0])),
            user,
            *conversation(("assistant", texts[2])),
        )
        runs = builder.build((*messages, *conversation(("user", "go on")))).runs
        return [[i for i in run if i in specials] for run in runs]

    specials = set(SEEING.get_added_vocab().values())
    builder = PromptBuilder(SEEING, TEMPLATES[name], "<image>")
    assert controls("".join(system), "".join(asked), "".join(answered)) == controls("x", "y", "z")
