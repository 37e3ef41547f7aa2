"""A relay's jobs end once, whatever happens to them and when."""

from __future__ import annotations

import threading

from broker.settings import Settings
from tests.scripted import Exchange, scripted
from tests.stack import until
from tests.workers.reference import request
from workers.engines.base import EngineOptions, UpstreamOptions
from workers.engines.remote import RemoteEngine
from workers.relay import Relay
from workers.running import RunningJob
from workers.scheduler import Output


def hangs(exchange: Exchange) -> None:
    exchange.begin()
    exchange.left()


def test_a_job_that_is_cancelled_before_it_begins_ends_as_cancelled() -> None:
    told: list[tuple[RunningJob, Output]] = []
    with scripted({"/v1/chat/completions": hangs}) as server:
        upstream = UpstreamOptions(Settings(), server.url)
        options = EngineOptions("", engine="remote", model_name="m", upstream=upstream)
        engine = RemoteEngine(options, lambda percent: None)
        relay = Relay(engine, lambda job: {}, told.extend, lambda job, error: None, lambda: "cell")
        job = RunningJob(None, None, request("early", "Hello"), 1)  # type: ignore[arg-type]
        relay.add(job)
        relay.cancel(job)
        thread = threading.Thread(target=relay.run)
        thread.start()
        until(lambda: told, "the job has ended", 5)
        relay.stop()
        thread.join()
        assert server.asked("/v1/chat/completions") == []
    assert [(each.id, output.finish_reason) for each, output in told] == [("early", "cancelled")]
