"""Chats and votes as lines of files: what scripts for these logs read, and pairs for training."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from broker import exports, feedback, keys, pages, preferences
from tests.broker.jobs import answered
from tests.broker.test_feedback import log_ended
from tests.stack import Stack, until

PICTURE = "a" * 64
PLAIN = '[{"role": "user", "content": [{"type": "text", "text": "hi"}]}]'
LOOK: list[dict[str, Any]] = [
    {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
    {"role": "user", "content": [{"type": "text", "text": "Hello"}]},
    {"role": "assistant", "content": [{"type": "text", "text": "Hi."}]},
    {
        "role": "user",
        "content": [
            {"type": "image", "sha256": PICTURE},
            {"type": "text", "text": "How "},
            {"type": "text", "text": "many?"},
        ],
    },
]


def export(stack: Stack, *flags: str) -> tuple[list[dict[str, Any]], str]:
    """What an operator gets: the lines, and what was said beside them."""
    done = subprocess.run(
        [sys.executable, "-m", "broker", "feedback", "export", *flags],
        env={"REDIS_URL": stack.url},
        capture_output=True,
        text=True,
        check=True,
    )
    return [json.loads(line) for line in done.stdout.splitlines()], done.stderr


def seconds(entry_id: str) -> float:
    return int(entry_id.partition("-")[0]) / 1000


def a_millisecond_passes(stack: Stack) -> None:
    """Entries of two streams are in order if their times differ."""

    def now() -> int:
        seconds, microseconds = stack.redis.time()  # type: ignore[misc]
        return int(1000 * seconds + microseconds // 1000)

    before = now()
    until(lambda: now() > before, "a millisecond passes")


def test_llava_lines_have_the_fields_of_its_log_files_and_no_more(stack: Stack) -> None:
    job_id = answered(stack.redis, "four", messages=LOOK, created_s=1000.12345)
    log_ended(stack.redis, job_id, "four")
    a_millisecond_passes(stack)
    vote = feedback.vote(stack.redis, job_id, "downvote", "wrong", ip="10.0.0.7")
    state = {
        "system": "Be brief.",
        "roles": ["USER", "ASSISTANT"],
        "messages": [
            ["USER", "Hello"],
            ["ASSISTANT", "Hi."],
            ["USER", "<image>\nHow many?"],
            ["ASSISTANT", "four"],
        ],
        "offset": 0,
        "sep": " ",
        "sep2": "</s>",
    }
    lines, said = export(stack, "--format", "llava")
    assert lines == [
        {
            "tstamp": 1000.3735,
            "type": "chat",
            "model": "m",
            "start": 1000.1235,
            "finish": 1000.3735,
            "state": state,
            "images": [PICTURE],
            "ip": "",
        },
        {
            "tstamp": seconds(vote),
            "type": "downvote",
            "model": "m",
            "state": state,
            "ip": "10.0.0.7",
        },
    ]
    assert said == ""


@pytest.mark.parametrize(
    ("outcome", "kind"),
    [
        ("left", "leftvote"),
        ("right", "rightvote"),
        ("tie", "tievote"),
        ("bothbad", "bothbad_vote"),
    ],
)
def test_a_battle_is_a_line_as_fastchat_writes_it(stack: Stack, outcome: Any, kind: str) -> None:
    left, right = answered(stack.redis, "four"), answered(stack.redis, "five", model="n")
    entry_id = feedback.battle(stack.redis, left, right, outcome)
    (line,) = exports.llava(stack.redis)
    assert line["type"] == kind
    assert line["models"] == ["m", "n"]
    assert [state["messages"] for state in line["states"]] == [
        [["USER", "hi"], ["ASSISTANT", "four"]],
        [["USER", "hi"], ["ASSISTANT", "five"]],
    ]
    assert [state["conv_id"] for state in line["states"]] == [left, right]
    assert [state["model_name"] for state in line["states"]] == ["m", "n"]
    assert (line["tstamp"], line["ip"]) == (seconds(entry_id), "")


def test_an_anonymous_battle_names_no_models_but_in_its_states(stack: Stack) -> None:
    left, right = answered(stack.redis, "four"), answered(stack.redis, "five", model="n")
    feedback.battle(stack.redis, left, right, "tie", anonymous=True)
    (line,) = exports.llava(stack.redis)
    assert line["models"] == ["", ""]
    assert [state["model_name"] for state in line["states"]] == ["m", "n"]
    (row,) = exports.everything(stack.redis)
    assert (row["anonymous"], row["left_model"], row["right_model"]) == ("yes", "m", "n")


def test_jsonl_has_all_fields_of_chats_and_votes_in_order_of_time(stack: Stack) -> None:
    job_id = answered(stack.redis, "four", messages=LOOK)
    first = feedback.vote(stack.redis, job_id, "flag", "early")
    a_millisecond_passes(stack)
    log_ended(stack.redis, job_id, "four")
    a_millisecond_passes(stack)
    last = feedback.vote(stack.redis, job_id, "upvote", comment="né")
    lines, said = export(stack)
    assert [line["type"] for line in lines] == ["flag", "chat", "upvote"]
    assert (lines[0]["id"], lines[2]["id"]) == (first, last)
    for line in lines:
        assert line["messages"] == LOOK
        assert line["images"] == [PICTURE]
        assert (line["job"], line["model"], line["worker"]) == (job_id, "m", "worker-7")
        assert (line["params"]["top_p"], line["answer"]) == (1.0, "four")
    assert lines[1]["finish"] - lines[1]["start"] == pytest.approx(0.25, abs=2e-4)
    assert lines[2]["comment"] == "né"
    assert said == ""


def test_broken_entries_are_left_out_with_one_line_each(stack: Stack) -> None:
    job_id = answered(stack.redis, "four")
    broken = [
        stack.redis.xadd(keys.FEEDBACK_LOG, fields)  # type: ignore[arg-type]
        for fields in (
            {b"vote": b"\xff"},
            {"vote": "upvote", "job": "j"},
            {"vote": "upvote", "job": "j", "answer": "a", "messages": "{"},
            {"job": "j", "vote": "left"},
        )
    ]
    whole = feedback.vote(stack.redis, job_id, "upvote")
    ids = [entry.decode() for entry in broken]  # type: ignore[union-attr]
    expected = {
        "llava": ["is no text", "'messages' is missing", "ValidationError", "'anonymous'"],
        "dpo": ["is no text", "'messages' is missing", "'left_messages'"],
        "jsonl": ["is no text", "JSONDecodeError"],
    }
    for format_, reasons in expected.items():
        lines, said = export(stack, "--format", format_)
        complaints = said.splitlines()
        assert len(complaints) == len(reasons), said
        for complaint, reason in zip(complaints, reasons, strict=True):
            assert reason in complaint
            assert any(entry_id in complaint for entry_id in ids)
        if format_ != "dpo":
            assert lines[-1]["tstamp"] == seconds(whole)


def test_a_long_log_is_read_page_by_page_and_in_order(stack: Stack) -> None:
    count = 3 * pages.PAGE + 7
    job_id = answered(stack.redis, "four")
    ids = [feedback.vote(stack.redis, job_id, "flag") for _ in range(count)]
    asked: Any = stack.redis.info("commandstats")
    before = asked.get("cmdstat_xrange", {}).get("calls", 0)
    rows = exports.everything(stack.redis)
    assert [next(rows)["id"] for _ in range(pages.PAGE)] == ids[: pages.PAGE]
    reads: Any = stack.redis.info("commandstats")
    # one of the empty chat log, one of the votes: the rest has not been read yet
    assert reads["cmdstat_xrange"]["calls"] - before == 2
    assert [row["id"] for row in rows] == ids[pages.PAGE :]


def test_an_export_of_which_only_the_beginning_is_read_ends_quietly(stack: Stack) -> None:
    job_id = answered(stack.redis, "four")
    for _ in range(2000):  # more than fits into a pipe
        feedback.vote(stack.redis, job_id, "flag")
    command = [sys.executable, "-m", "broker", "feedback", "export"]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, env={"REDIS_URL": stack.url}, stdout=pipe, stderr=pipe
    ) as process:
        assert process.stdout and process.stderr
        assert json.loads(process.stdout.readline())["type"] == "flag"
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


def test_lines_are_utf_8_in_every_locale(stack: Stack) -> None:
    entry = {"vote": "flag", "messages": '"\\ud800 \u00e9"', "comment": "\u6f22\u5b57"}
    stack.redis.xadd(keys.FEEDBACK_LOG, entry)  # type: ignore[arg-type]
    done = subprocess.run(
        [sys.executable, "-m", "broker", "feedback", "export"],
        env={"REDIS_URL": stack.url, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
        capture_output=True,
        check=True,
    )
    (line,) = done.stdout.decode().splitlines()
    assert "漢字" in line and "? é" in line


def pair(chosen: str, rejected: str, ids: list[str]) -> dict[str, Any]:
    return {
        "prompt": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}],
        "chosen": [{"role": "assistant", "content": [{"type": "text", "text": chosen}]}],
        "rejected": [{"role": "assistant", "content": [{"type": "text", "text": rejected}]}],
        "images": [],
        "jobs": ids,
    }


def test_a_battle_that_one_side_won_is_a_pair(stack: Stack) -> None:
    client = stack.redis
    left, right = answered(client, "four"), answered(client, "five")
    feedback.battle(client, left, right, "right")
    for outcome in ("tie", "bothbad"):
        feedback.battle(client, answered(client, "a"), answered(client, "b"), outcome)  # type: ignore[arg-type]
    feedback.battle(client, answered(client, "same"), answered(client, "same"), "left")
    feedback.battle(client, answered(client, "said"), answered(client, ""), "left")
    with_past = answered(client, "b", messages=[LOOK[1], LOOK[2], json.loads(PLAIN)[0]])
    feedback.battle(client, answered(client, "a"), with_past, "left")
    assert export(stack, "--format", "dpo") == ([pair("five", "four", [right, left])], "")


def test_answers_to_the_same_conversation_with_different_votes_are_pairs(stack: Stack) -> None:
    client = stack.redis
    four, five, six = (answered(client, text) for text in ("four", "five", "six"))
    feedback.vote(client, four, "upvote")
    feedback.vote(client, answered(client, "elsewhere", messages=LOOK), "downvote")
    feedback.vote(client, five, "downvote")
    feedback.vote(client, six, "flag")
    assert list(preferences.pairs(client)) == [pair("four", "five", [four, five])]
    feedback.vote(client, four, "downvote")  # a change of mind
    assert list(preferences.pairs(client)) == []
    feedback.vote(client, six, "upvote")
    assert list(preferences.pairs(client)) == [
        pair("six", "four", [six, four]),
        pair("six", "five", [six, five]),
    ]


def test_pictures_of_a_pair_are_named_and_marked(stack: Stack) -> None:
    client = stack.redis
    for text, kind in (("four", "upvote"), ("five", "downvote")):
        feedback.vote(client, answered(client, text, messages=LOOK), kind)  # type: ignore[arg-type]
    (found,) = preferences.pairs(client)
    assert found["images"] == [PICTURE]
    assert found["prompt"][-1]["content"][0] == {"type": "image"}
    assert [message["role"] for message in found["prompt"]] == [
        "system",
        "user",
        "assistant",
        "user",
    ]


def test_only_so_many_conversations_wait_for_their_second_vote(stack: Stack) -> None:
    client = stack.redis
    asked = [[{"role": "user", "content": [{"type": "text", "text": str(n)}]}] for n in range(3)]

    def vote(n: int, text: str, kind: Any) -> None:
        feedback.vote(client, answered(client, text, messages=asked[n]), kind)

    vote(0, "bad", "downvote")
    vote(1, "bad", "downvote")
    vote(2, "bad", "downvote")
    vote(1, "good", "upvote")
    vote(0, "good", "upvote")  # by now conversation 0 has made room
    found = preferences.pairs(client, open_prompts=2)
    assert [row["prompt"][0]["content"][0]["text"] for row in found] == ["1"]
