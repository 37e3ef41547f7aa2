"""Settings: the only reader of the environment.

Every name is in `Settings`; a value that does not parse, or an unknown `HELIOGRAPH_*` name, stops
the process with a sentence that says key, value and what is expected. Reading happens when
`Settings.from_environment` is called, never on import.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from broker.addresses import AllowList
from broker.errors import ConfigurationError
from broker.groups import parse_groups
from broker.keys import MAX_GRACE_S
from broker.proxies import parse_networks

DISPATCH_METHODS = ("shortest_queue", "lottery")
MODEL_LIST_MODES = ("reload", "once")
MAX_CONCURRENCY = 1000
"""Each answer that is shown holds a thread."""
SWITCH = ("off", "on")
CHOICES: dict[str, tuple[str, ...]] = {
    "dispatch_method": DISPATCH_METHODS,
    "model_list_mode": MODEL_LIST_MODES,
    "embed": SWITCH,
    "share": SWITCH,
    "terms_consent": SWITCH,
    "log_ip": ("full", "off"),
    "moderation": SWITCH,
    "moderation_failure": ("closed", "open"),
}
LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
PREFIX = "HELIOGRAPH_"
_ORIGIN = re.compile(r"https?://((\*\.)?[A-Za-z0-9.-]+|\[[0-9A-Fa-f:]+\])(:[0-9]{1,5})?")


@dataclass(frozen=True, slots=True)
class Settings:
    """What a Heliograph process can be told from outside. Field `api_port` is HELIOGRAPH_API_PORT.

    `redis_url` is REDIS_URL; empty means: the embedded server of this stack on `redis_port`.
    `control_token` lets machines other than this one register workers, whose addresses must match
    `worker_addresses` (see `broker.addresses`). `public_url` is what the API tells others as its
    own address. What `trusted_proxies` say of whom they ask for is believed, and `log_ip` says
    whether it is kept. `operator_token` is the password of operators on the fleet page; without one
    nobody gives orders there. `ui_grace_s` is how long a job of the chat page outlives its tab, and
    `concurrency_count` how many answers a process of it shows at a time; docs/page.md has the other
    settings of the page. `groups` is `name=model,model`, several with blanks between.
    `upstream_key` is the API key that a worker with a remote engine sends. `queue_timeout_s` is how
    long a job may wait for a worker to take it, 0 for as long as it takes; the official client
    waits for 600 s. `drawing_url` is a drawing worker's address (see `frontend.drawings`), which
    has `drawing_timeout_s` for a picture. The settings of moderation are those of
    `frontend.moderation`.
    """

    redis_url: str = ""
    redis_port: int = 6379
    host: str = "127.0.0.1"
    api_port: int = 8000
    ui_port: int = 7860
    ui_grace_s: int = 120
    model_list_mode: str = "reload"
    concurrency_count: int = 200
    embed: str = "off"
    embed_origins: str = ""
    share: str = "off"
    terms: str = ""
    terms_consent: str = "off"
    data_dir: Path = Path(".heliograph")
    model_path: str = "demo"
    model_name: str = ""
    device: str = "auto"
    engine: str = "local"
    compile: str = "auto"
    workers: int = 1
    log_level: str = "INFO"
    max_image_bytes: int = 10 * 2**20
    max_image_pixels: int = 25_000_000
    max_images: int = 16
    max_video_bytes: int = 20 * 2**20
    max_video_frames: int = 32
    max_body_bytes: int = 32 * 2**20
    max_queue_length: int = 1000
    queue_timeout_s: int = 600
    groups: str = ""
    dispatch_method: str = "shortest_queue"
    public_url: str = ""
    control_token: str = field(default="", repr=False)
    worker_addresses: str = ""
    trusted_proxies: str = ""
    log_ip: str = "full"
    operator_token: str = field(default="", repr=False)
    upstream_key: str = field(default="", repr=False)
    drawing_url: str = ""
    drawing_timeout_s: int = 60
    moderation: str = "off"
    moderation_url: str = ""
    moderation_key: str = field(default="", repr=False)
    moderation_model: str = "omni-moderation-latest"
    moderation_timeout_s: int = 5
    moderation_failure: str = "closed"
    moderation_words: str = ""

    @property
    def url(self) -> str:
        """Address of the Redis to use."""
        return self.redis_url or f"redis://127.0.0.1:{self.redis_port}/0"

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """Read all settings.

        Raises:
            ConfigurationError: a HELIOGRAPH_* name is unknown, or a value does not parse.
        """
        source = os.environ if environ is None else environ
        keys = {_key(each.name): each for each in fields(cls)}
        for name in source:
            if name.startswith(PREFIX) and name not in keys:
                known = ", ".join(sorted(keys))
                raise ConfigurationError(f"{name} is not a setting. Known settings: {known}.")
        values = {
            each.name: _parse(key, source[key], str(each.type))
            for key, each in keys.items()
            if source.get(key, "") != ""
        }
        settings = cls(**values)
        settings.check()
        return settings

    def check(self) -> None:
        """Look for values that no process should start with.

        Raises:
            ConfigurationError: there is one.
        """
        parse_groups(self.groups.split())
        AllowList.parse(self.worker_addresses)
        parse_networks(self.trusted_proxies, _key("trusted_proxies"))
        if self.log_level.upper() not in LOG_LEVELS:
            raise ConfigurationError(
                f"{_key('log_level')}={self.log_level!r} is no level: use {', '.join(LOG_LEVELS)}."
            )
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise ConfigurationError(
                    f"{_key(name)}={getattr(self, name)!r} is none of {', '.join(choices)}."
                )
        for origin in self.embed_origins.split():
            if not _ORIGIN.fullmatch(origin):
                raise ConfigurationError(
                    f"{_key('embed_origins')}: {origin!r} is no origin: write https://host or "
                    "https://host:port, several with blanks between."
                )
        if self.embed == self.terms_consent == "on":
            raise ConfigurationError(
                f"{_key('terms_consent')}=on needs the terms on the page, and {_key('embed')}=on "
                "(--embed) hides them: set one of them off."
            )
        if not (self.moderation_key.isascii() and self.moderation_key.isprintable()):
            raise ConfigurationError(
                f"{_key('moderation_key')} has characters that no API key has: check how it is set."
            )
        for name in ("public_url", "drawing_url", "moderation_url"):
            url = getattr(self, name)
            if url and not url.startswith(("http://", "https://")):
                raise ConfigurationError(
                    f"{_key(name)}={url!r} is no address: write it as https://host or "
                    "http://host:port."
                )
        for name in ("redis_port", "api_port", "ui_port"):
            port = getattr(self, name)
            if not 1 <= port <= 65535:
                raise ConfigurationError(f"{_key(name)}={port} is not a port: use 1 to 65535.")
        if self.ui_grace_s > MAX_GRACE_S:
            raise ConfigurationError(
                f"{_key('ui_grace_s')}={self.ui_grace_s} is too long: use 1 to {MAX_GRACE_S}."
            )
        if self.concurrency_count > MAX_CONCURRENCY:
            raise ConfigurationError(
                f"{_key('concurrency_count')}={self.concurrency_count} is too many: use 1 to "
                f"{MAX_CONCURRENCY}, and more processes for more."
            )
        for each in fields(self):
            value = getattr(self, each.name)
            least = 0 if each.name == "queue_timeout_s" else 1
            if isinstance(value, int) and value < least:
                raise ConfigurationError(f"{_key(each.name)}={value} must be at least {least}.")


def _key(field_name: str) -> str:
    return "REDIS_URL" if field_name == "redis_url" else PREFIX + field_name.upper()


def _parse(key: str, text: str, type_name: str) -> Any:
    parsers: dict[str, Callable[[str], Any]] = {"int": int, "Path": Path, "str": str}
    try:
        return parsers[type_name](text)
    except ValueError:
        raise ConfigurationError(f"{key}={text!r} does not parse: expected {type_name}.") from None
