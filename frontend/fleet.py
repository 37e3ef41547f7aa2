"""Who can be asked: live workers, their models, and groups of them, one chosen by load.

Reads the registry; what is registered there is the workers' to say.
"""

from __future__ import annotations

import time
from collections.abc import Collection

import redis

from broker import cell, counts, dispatch, registry
from broker.connection import redis_errors
from broker.errors import NoLiveWorker
from broker.groups import parse_groups
from broker.messages import ModelInfo, WorkerInfo
from broker.settings import Settings

ADMISSION_S = 0.5
"""How long models that were found alive are taken to be so; it takes 5 s to count as dead."""


class Fleet:
    """All workers of one Redis; every call but `groups` may raise RedisUnavailable."""

    def __init__(self, settings: Settings, client: redis.Redis) -> None:
        """Read the groups and the way to choose among their models from `settings`."""
        self._client = client
        self._groups = parse_groups(settings.groups.split())
        self._method = settings.dispatch_method
        self._lately: tuple[list[ModelInfo], float] = ([], 0.0)

    @property
    def groups(self) -> Collection[str]:
        """Names that stand for several models."""
        return self._groups.keys()

    @redis_errors()
    def cell_id(self) -> str:
        """The id of this system among connected ones."""
        return cell.cell_id(self._client)

    @redis_errors()
    def workers(self) -> list[WorkerInfo]:
        """Live workers, by model and id."""
        return registry.workers(self._client)

    @redis_errors()
    def models(self) -> list[ModelInfo]:
        """Models that live workers serve, and groups of them, by name."""
        live = registry.models(self._client)
        groups = (registry.pool(name, self._members(name, live)) for name in self._groups)
        return sorted(
            [info for info in live if info.name not in self._groups]
            + [group for group in groups if group.workers],
            key=lambda info: info.name,
        )

    @redis_errors()
    def serves(self, model: str) -> bool:
        """Whether a live worker serves a model, which is no group."""
        return any(info.name == model for info in self._models_lately())

    @redis_errors()
    def jobs_per_s(self, model: str) -> float:
        """How many jobs of a model end when all its slots are taken; 0 if that is not known."""
        rates = (info.jobs_per_s for info in self._models_lately() if info.name == model)
        return next(rates, 0.0)

    @redis_errors()
    def find(self, name: str, *, sees: bool, may_be_absent: bool = False) -> ModelInfo:
        """The live model of that name, or the one of that group whose turn it is.

        Args:
            name: of a model or a group.
            sees: whether it has to read pictures; matters for groups only.
            may_be_absent: take a model that was served once, though nobody serves it now.

        Raises:
            ModelNotFound, NoLiveWorker: there is none.
        """
        live = self._models_lately()
        if name in self._groups:
            return self._choose(name, live, sees=sees)
        found = next((info for info in live if info.name == name), None)
        try:
            return found or registry.find_model(self._client, name)
        except NoLiveWorker:
            if not may_be_absent:
                raise
            return registry.absent(name)

    @redis_errors()
    def count_tokens(self, model: str, text: str) -> int:
        """Tokens of a text as a prompt for a model.

        Raises:
            ModelNotFound, NoLiveWorker: nobody can count them.
            RequestTooLarge: the text is longer than is counted.
        """
        return counts.count_tokens(self._client, self.find(model, sees=False).name, text)

    def _models_lately(self) -> list[ModelInfo]:
        live, seen_s = self._lately
        now = time.monotonic()
        if not live or now - seen_s > ADMISSION_S:
            live = registry.models(self._client)
            self._lately = (live, now)
        return live

    def _members(self, group: str, live: list[ModelInfo]) -> list[ModelInfo]:
        return [info for info in live if info.name in self._groups[group]]

    def _choose(self, group: str, live: list[ModelInfo], *, sees: bool) -> ModelInfo:
        members = self._members(group, live)
        able = [info for info in members if info.ready and (info.images or not sees)] or members
        if not able:
            raise NoLiveWorker(
                f"No worker for any model of group {group!r} is alive. Start one of: "
                f"{', '.join(self._groups[group])}.",
                param="model",
            )
        jobs = dispatch.waiting_and_running(self._client, [info.name for info in able])
        chosen = dispatch.choose(
            [dispatch.Candidate(info.name, jobs[info.name], info.peak_speed) for info in able],
            self._method,
        )
        return next(info for info in able if info.name == chosen.name)
