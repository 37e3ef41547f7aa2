"""Groups: several models served under one name; how they are written, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence

from broker.errors import ConfigurationError

Groups = dict[str, tuple[str, ...]]


def parse_groups(texts: Sequence[str]) -> Groups:
    """Read groups written as `name=model,model`.

    Raises:
        ConfigurationError: one has another form, or a name is given twice.
    """
    groups: Groups = {}
    for text in texts:
        name, equals, listed = text.partition("=")
        members = tuple(dict.fromkeys(part.strip() for part in listed.split(",") if part.strip()))
        if not equals or not name.strip() or not members:
            raise ConfigurationError(
                f"group {text!r}: write it as name=model,model with at least one model."
            )
        if name.strip() in groups:
            raise ConfigurationError(f"group {name.strip()!r} is given twice.")
        if name.strip() in members:
            raise ConfigurationError(f"group {name.strip()!r} cannot be its own member.")
        groups[name.strip()] = members
    return groups
