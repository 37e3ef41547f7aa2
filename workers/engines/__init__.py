"""The engines by name, each imported only when it is chosen.

So `--help`, the scheduler and every process that merely needs the names run without torch.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from broker.errors import ConfigurationError
from workers.engines.base import Engine, EngineOptions, Loading, Upstream

_ENGINES = {
    "local": ("workers.engines.local", "LocalEngine"),
    "echo": ("workers.engines.echo", "EchoEngine"),
    "remote": ("workers.engines.remote", "RemoteEngine"),
    "foreign": ("workers.engines.foreign", "ForeignEngine"),
}


def engine_names() -> tuple[str, ...]:
    """Names that `load_engine` knows."""
    return tuple(_ENGINES)


def load_engine(options: EngineOptions, progress: Loading) -> Engine | Upstream:
    """Build the engine that the options name; loading a big model can take minutes.

    Raises:
        ConfigurationError: the engine is unknown, or cannot serve this model on this machine.
    """
    if options.slots < 1:
        raise ConfigurationError(f"an engine needs at least one slot, not {options.slots}")
    return import_engine(options.engine)(options, progress)


def import_engine(name: str) -> Callable[[EngineOptions, Loading], Engine | Upstream]:
    """Import what the engine of that name needs, torch included, and return what builds it.

    Raises:
        ConfigurationError: there is none of that name.
    """
    try:
        module, cls = _ENGINES[name]
    except KeyError:
        known = ", ".join(_ENGINES)
        raise ConfigurationError(f"engine {name!r} is not one of: {known}") from None
    build: Callable[[EngineOptions, Loading], Engine | Upstream]
    build = getattr(import_module(module), cls)
    return build
