"""Which template a model's name asks for, where its checkpoint brings none.

The rules are those of LLaVA's and InternVL's servers in one table, with what they lacked: the
templates that did not exist, the rule that could not be reached, InternVL 2 and later, LLaVA's
names on the hub. docs/prompts.md says where and why they differ.
"""

from __future__ import annotations

import re

from workers.templates.table import TEMPLATES
from workers.templates.template import Template

_V1 = r"v1|llava-1\."
_MPT = r"\bmpt"
_INTERN = "intern(?![ae])"

RULES: tuple[tuple[tuple[str, ...], str], ...] = (
    (("llava", "llama-2"), "llava_llama_2"),
    (("llava", "mistral|mixtral", "orca"), "mistral_orca"),
    (("llava", "mistral|mixtral", "hermes"), "chatml_direct"),
    (("llava", "mistral|mixtral"), "mistral_instruct"),
    ((r"llava-v?1\.6-34b",), "chatml_direct"),
    (("llava", _V1, "mmtag"), "v1_mmtag"),
    (("llava", _V1, "finetune"), "llava_v1"),
    (("llava", _V1, "plain"), "v1_mmtag"),
    (("llava", _V1), "llava_v1"),
    (("llava", _MPT), "mpt"),
    (("llava", "mmtag"), "v0_mmtag"),
    (("llava", "finetune"), "llava_v0"),
    (("llava", "plain"), "v0_mmtag"),
    (("llava",), "llava_v0"),
    ((r"internvl(2[-.]5|[3-9])",), "internvl2_5"),
    ((_INTERN, "v1-1"), "internvl_zh"),
    ((_INTERN, "4b-v1-5|phi-?3"), "phi3-chat"),
    ((_INTERN, "v1-2|hermes-?2|yi-?34b|qwen2"), "Hermes-2"),
    ((_INTERN, "v1-5|internlm"), "internlm2-chat"),
    (("internvl2-(1|40)b",), "Hermes-2"),
    (("internvl2-4b",), "phi3-chat"),
    (("internvl2|mono-internvl",), "internlm2-chat"),
    ((_INTERN,), "llava_v1"),
    ((_MPT,), "mpt_text"),
    (("llama-2",), "llama_2"),
    (("vicuna",), "vicuna_v1"),
)
"""Patterns that a name in lower case, `_` as `-`, must all contain, and the template's name."""


def choose(model_name: str) -> Template | None:
    """Return the template that a model's name asks for, or None if the name says nothing."""
    name = model_name.lower().replace("_", "-")
    for patterns, template in RULES:
        if all(re.search(pattern, name) for pattern in patterns):
            return TEMPLATES[template]
    return None
