"""Votes: bound to the job, readable by redis-cli, exported whole."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import redis

from broker import feedback, images, keys
from broker.errors import InvalidImage, InvalidRequest, JobNotFound
from tests.broker.test_channel import claim, make_job


def test_a_vote_carries_job_model_worker_and_parameters(client: redis.Redis) -> None:
    job_id = make_job(client)
    claim(client, job_id, "worker-7")
    entry_id = feedback.vote(client, job_id, "downvote", "wrong colour")
    (row,) = feedback.tail(client, 1)
    assert row["id"] == entry_id
    assert (row["vote"], row["job"], row["model"], row["worker"], row["reason"]) == (
        "downvote",
        job_id,
        "m",
        "worker-7",
        "wrong colour",
    )
    assert json.loads(row["params"])["temperature"] == 1.0


def test_a_vote_on_nothing_or_of_no_kind_is_refused(client: redis.Redis) -> None:
    with pytest.raises(JobNotFound):
        feedback.vote(client, "nobody", "upvote")
    with pytest.raises(InvalidRequest, match="upvote, downvote, flag"):
        feedback.vote(client, make_job(client), "meh")  # type: ignore[arg-type]


def test_export_walks_over_all_pages_in_order(client: redis.Redis) -> None:
    job_id = make_job(client)
    ids = [feedback.vote(client, job_id, "flag") for _ in range(7)]
    exported = [row["id"] for row in feedback.export(client, page=3)]
    assert exported[-7:] == ids


def test_the_command_line_prints_json_lines(client: redis.Redis, server_url: str) -> None:
    entry_id = feedback.vote(client, make_job(client), "upvote")
    for action in (["tail", "-n", "1"], ["export"]):
        shown = subprocess.run(
            [sys.executable, "-m", "broker", "feedback", *action],
            env={"REDIS_URL": server_url},
            capture_output=True,
            text=True,
            check=True,
        )
        assert json.loads(shown.stdout.splitlines()[-1])["id"] == entry_id


def test_images_are_stored_once_under_their_digest(client: redis.Redis) -> None:
    first, again = images.put(client, b"bytes"), images.put(client, b"bytes")
    assert first == again == images.digest(b"bytes")
    assert images.get(client, [first, again]) == {first: b"bytes"}
    assert 0 < client.ttl(keys.image(first)) <= keys.IMAGE_TTL_S  # type: ignore[operator]
    with pytest.raises(InvalidImage, match="send it again"):
        images.get(client, [first, "0" * 64])
