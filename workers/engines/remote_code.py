"""Checkpoints that come with code of their own: it is run only by someone's express wish.

Owns the refusal, which names what would be run. Knows nothing of any family.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from broker.errors import ConfigurationError


def read_settings(model_path: str) -> dict[str, Any]:
    """Read a checkpoint's `config.json`, of a folder or of the hub."""
    return PreTrainedConfig.get_config_dict(model_path)[0]


def refuse_code(model_path: str, settings: Mapping[str, Any]) -> None:
    """Refuse a checkpoint that needs its own code.

    Raises:
        ConfigurationError: it does; the sentence says which class of which file.
    """
    code = settings.get("auto_map") or {}
    if not code or settings.get("model_type") in CONFIG_MAPPING:
        return
    named = sorted({str(each).rpartition("--")[2] for each in code.values()})
    classes = ", ".join(
        f"{each.rpartition('.')[2]} in {each.rpartition('.')[0]}.py" for each in named
    )
    raise ConfigurationError(
        f"{model_path}: to load it would run code that comes with it ({classes}), and "
        "--trust-remote-code is off. Read that code, and give the flag if you trust it."
    )
