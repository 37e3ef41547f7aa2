"""The conversation templates by name, as the models of LLaVA's and InternVL's servers were trained.

System messages, roles and separators are part of what a model has learnt: a changed blank costs
answers. The names are those people know from `--conv-template` and `config.json`.
"""

from __future__ import annotations

from dataclasses import replace

from broker.errors import ConfigurationError
from workers.templates.template import Template

_CURIOUS_HUMAN = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions."
)
_CURIOUS_USER = _CURIOUS_HUMAN.replace("human", "user")
# No blank between the last two sentences: that is how the models saw it.
_TAGS = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant is able to understand the visual content that the user provides, "
    "and assist the user with a variety of tasks using natural language."
    "The visual content will be provided with the following format: "
    "<Image>visual content</Image>."
)
_SAFE = (
    "You are a helpful, respectful and honest assistant. Always answer as helpfully as possible, "
    "while being safe.  Your answers should not include any harmful, unethical, racist, sexist, "
    "toxic, dangerous, or illegal content. Please ensure that your responses are socially unbiased "
    "and positive in nature.\n\n"
    "If a question does not make any sense, or is not factually coherent, explain why instead of "
    "answering something not correct. If you don't know the answer to a question, please don't "
    "share false information."
)
_SEEING = (
    "You are a helpful language and vision assistant. You are able to understand the visual "
    "content that the user provides, and assist the user with a variety of tasks using natural "
    "language."
)
_MPT = (
    "A conversation between a user and an LLM-based AI assistant. "
    "The assistant gives helpful and honest answers."
)
_MPT_TEXT = (
    "- You are a helpful assistant chatbot trained by MosaicML.\n"
    "- You answer questions.\n"
    "- You are excited to be able to help the user, but will refuse to do anything that could be "
    "considered harmful to the user.\n"
    "- You are more than just an information source, you are also able to write poetry, short "
    "stories, and make jokes."
)
_ORCA = (
    "You are MistralOrca, a large language model trained by Alignment Lab AI. Write out your "
    "reasoning step-by-step to be sure you get the right answers!"
)
# The commas are of both widths in the first one, as the models saw them.
_INTERNVL = (
    "你是由上海人工智能实验室联合商汤科技开发的书生多模态大模型，英文名叫InternVL, "  # noqa: RUF001
    "是一个有用无害的人工智能助手。"
)
_INTERNVL_2_5 = (
    "你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位"  # noqa: RUF001
    "联合开发的多模态大语言模型。"
)

_V0 = Template(
    "llava_v0",
    style="colon",
    system=_CURIOUS_HUMAN,
    user="Human",
    assistant="Assistant",
    sep="###",
    sep2="###",
    stop="###",
)
_V1 = Template(
    "llava_v1",
    style="colon",
    system=_CURIOUS_HUMAN,
    user="USER",
    assistant="ASSISTANT",
    sep=" ",
    sep2="</s>",
    stop="</s>",
)
_LLAMA_2 = replace(_V1, name="llama_2", style="llama_2", system=_SAFE, sep="<s>")
_CHATML = Template(
    "chatml_direct",
    style="marked",
    system="Answer the questions.",
    system_role="<|im_start|>system\n",
    user="<|im_start|>user\n",
    assistant="<|im_start|>assistant\n",
    sep="<|im_end|>",
    sep2="<|im_end|>",
    stop="<|im_end|>",
)
_HERMES_2 = replace(_CHATML, name="Hermes-2", system=_INTERNVL, images="numbered")

_ALL = (
    _V0,
    _V1,
    replace(_V0, name="v0_mmtag", system=_TAGS, images="tagged"),
    replace(_V1, name="v1_mmtag", system=_TAGS, images="tagged"),
    replace(_V1, name="vicuna_v1", system=_CURIOUS_USER),
    replace(_V0, name="plain", style="plain", system="", sep="\n", sep2="\n", stop=None),
    _LLAMA_2,
    replace(_LLAMA_2, name="llava_llama_2", system=_SEEING),
    replace(_LLAMA_2, name="mistral_instruct", system="", sep=""),
    _CHATML,
    replace(_CHATML, name="mistral_direct"),
    replace(_CHATML, name="mistral_orca", system=_ORCA),
    replace(_CHATML, name="mpt", system=_MPT),
    replace(_CHATML, name="mpt_text", system=_MPT_TEXT),
    replace(
        _V1, name="internvl_zh", system="", user="<human>", assistant="<bot>", images="numbered"
    ),
    _HERMES_2,
    replace(_HERMES_2, name="internlm2-chat"),
    replace(
        _HERMES_2,
        name="phi3-chat",
        system_role="<|system|>\n",
        user="<|user|>\n",
        assistant="<|assistant|>\n",
        sep="<|end|>",
        sep2="<|end|>",
        stop="<|end|>",
    ),
    replace(
        _HERMES_2,
        name="internvl2_5",
        system=_INTERNVL_2_5,
        sep="<|im_end|>\n",
        sep2="<|im_end|>\n",
    ),
)
TEMPLATES = {template.name: template for template in _ALL}


def named(name: str) -> Template:
    """Return a template by its name.

    Raises:
        ConfigurationError: there is none of that name.
    """
    try:
        return TEMPLATES[name]
    except KeyError:
        known = ", ".join(TEMPLATES)
        raise ConfigurationError(f"no conversation template {name!r}; there are: {known}") from None
