"""Votes: bound to the job, readable by redis-cli, exported whole."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis

from broker import feedback, images, jobs, keys
from broker.errors import InvalidImage, InvalidRequest, JobNotFound
from broker.events import Timings, Usage
from tests.broker.jobs import answered, claim, make_job


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


def log_ended(client: redis.Redis, job_id: str, answer: str) -> None:
    pipe = client.pipeline(transaction=False)
    request = jobs.read(client, job_id).request
    usage, timings = Usage(3, 2), Timings(0.1, 0.2, 0.25)
    feedback.log_chat(pipe, request, "worker-7", answer, "stop", usage, timings)
    pipe.execute()


def test_a_vote_holds_conversation_answer_and_what_was_written(client: redis.Redis) -> None:
    job_id = answered(client, "hello")
    feedback.vote(client, job_id, "upvote", "kind", comment="é \ud800", ip="10.0.0.7")
    (row,) = feedback.tail(client, 1)
    assert row["answer"] == "hello"
    assert json.loads(row["messages"]) == [
        {"role": "user", "content": [{"type": "text", "text": "hi"}]}
    ]
    assert (row["reason"], row["comment"], row["ip"]) == ("kind", "é ?", "10.0.0.7")


def test_the_answer_of_a_vote_is_found_among_the_chats_when_its_log_is_gone(
    client: redis.Redis,
) -> None:
    job_id, other = answered(client, "hello"), answered(client, "other")
    log_ended(client, other, "other")
    log_ended(client, job_id, "hello")
    client.delete(keys.events(job_id))
    feedback.vote(client, job_id, "upvote")
    assert feedback.tail(client, 1)[0]["answer"] == "hello"


def test_a_vote_with_its_reason_takes_the_place_of_the_one_without(client: redis.Redis) -> None:
    job_id = answered(client, "hello")
    before = client.xlen(keys.FEEDBACK_LOG)
    bare = feedback.vote(client, job_id, "downvote")
    told = feedback.vote(client, job_id, "downvote", "wrong", replaces=bare)
    assert client.xlen(keys.FEEDBACK_LOG) == before + 1  # type: ignore[operator]
    assert not client.xrange(keys.FEEDBACK_LOG, bare, bare)
    (row,) = feedback.tail(client, 1)
    assert (row["id"], row["reason"]) == (told, "wrong")


@pytest.mark.parametrize(
    ("name", "most"), [("reason", feedback.MAX_REASON), ("comment", feedback.MAX_COMMENT)]
)
def test_what_is_written_beside_a_vote_is_bounded(
    client: redis.Redis, name: str, most: int
) -> None:
    job_id = make_job(client)
    feedback.vote(client, job_id, "flag", **{name: "x" * most})  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest) as refused:
        feedback.vote(client, job_id, "flag", **{name: "x" * (most + 1)})  # type: ignore[arg-type]
    assert str(refused.value) == (
        f"The {name} has {most + 1} characters, and {most} are kept at most: shorten it."
    )


def test_a_battle_holds_both_sides(client: redis.Redis) -> None:
    left, right = answered(client, "four"), answered(client, "five", model="n")
    entry_id = feedback.battle(client, left, right, "right", "counts", comment="see", ip="::1")
    (row,) = feedback.tail(client, 1)
    assert (row["id"], row["vote"]) == (entry_id, "right")
    assert (row["reason"], row["comment"], row["ip"]) == ("counts", "see", "::1")
    for side, job_id, model, answer in (
        ("left", left, "m", "four"),
        ("right", right, "n", "five"),
    ):
        assert row[f"{side}_job"] == job_id
        assert row[f"{side}_model"] == model
        assert row[f"{side}_answer"] == answer
        assert row[f"{side}_worker"] == "worker-7"
        assert json.loads(row[f"{side}_params"])["temperature"] == 1.0


def test_two_answers_are_compared_once_however_they_stand(client: redis.Redis) -> None:
    left, right = answered(client, "four"), answered(client, "five")
    before = client.xlen(keys.FEEDBACK_LOG)
    with ThreadPoolExecutor(8) as pool:
        votes = [pool.submit(feedback.battle, client, left, right, "tie") for _ in range(8)]
        refused = [vote.exception(20) for vote in votes]
    assert refused.count(None) == 1
    with pytest.raises(InvalidRequest, match="compared before: one vote counts"):
        feedback.battle(client, right, left, "left")
    assert client.xlen(keys.FEEDBACK_LOG) == before + 1  # type: ignore[operator]
    assert 0 < client.ttl(keys.voted(left, right)) <= keys.JOB_TTL_S  # type: ignore[operator]


def test_only_answers_to_the_same_message_are_compared(client: redis.Redis) -> None:
    left = answered(client, "four")
    asked = {"role": "user", "content": [{"type": "text", "text": "ho"}]}
    other = answered(client, "five", messages=[asked])
    for right in (other, left):
        with pytest.raises(InvalidRequest, match="not two answers to the same message"):
            feedback.battle(client, left, right, "tie")
    with pytest.raises(InvalidRequest, match="use left, right, tie, bothbad"):
        feedback.battle(client, left, answered(client, "five"), "both")  # type: ignore[arg-type]
    with pytest.raises(JobNotFound):
        feedback.battle(client, left, "nobody", "tie")


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
