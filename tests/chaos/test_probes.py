"""Attempts at what nobody may have: refused at each door, told in the log, and no secret in it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rq import Queue
from rq.serializers import JSONSerializer
from transformers import AutoTokenizer

from broker.messages import ChatMessage, ImagePart, TextPart
from tests.chaos import files, raw
from tests.chaos.test_inputs import DEMO, nothing_broke
from tests.frontend import originals
from tests.frontend.clients import body, data_uri, image_message, post
from tests.frontend.originals import registration
from tests.scripted import scripted
from tests.stack import Stack, until
from workers.prompt import PromptBuilder
from workers.templates import TEMPLATES

MODEL = Path(__file__).parents[2] / "workers/demo/model"
FAMILIES = ["<image>", "<|image_pad|>", "<|vision_start|>", "<|eot_id|>", "</s>", "[INST]", "###"]

pytestmark = pytest.mark.timeout(1800)


@pytest.fixture
def copies(runs: int) -> int:
    """How often a mark is repeated; over every context in the short set as well."""
    return 10_000 if runs <= 2 else 100_000


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(MODEL)


@pytest.fixture(scope="module")
def marks(tokenizer: Any) -> list[str]:
    """Every added token of the demo model, and marks of other families."""
    return [*tokenizer.get_added_vocab(), *FAMILIES]


def turn(text: str) -> ChatMessage:
    picture = ImagePart(sha256="0" * 64)
    return ChatMessage(role="user", content=(picture, TextPart(text=text)))


def test_marks_in_every_template_change_no_role_and_no_picture(
    tokenizer: Any, marks: list[str], copies: int, report: Callable[[str], None]
) -> None:
    specials = set(tokenizer.get_added_vocab().values())
    templates = {"its own": tokenizer.chat_template, **TEMPLATES}

    def controls(name: str, text: str) -> list[list[int]]:
        builder = PromptBuilder(tokenizer, templates[name], "<IMG_CONTEXT>")
        runs = builder.build((turn(text),)).runs
        return [[each for each in run if each in specials] for run in runs]

    for name in templates:
        harmless = controls(name, "x")
        assert len(harmless) == 2, "one picture stands between two runs of text"
        for mark in marks:
            assert controls(name, mark * 100) == harmless, (name, mark)
    own = controls("its own", "x")
    assert [controls("its own", mark * copies) for mark in marks] == [own] * len(marks)
    report(f"special tokens as text: {len(marks)} marks in {len(templates)} templates, no change")


def test_marks_are_answered_or_refused(
    demo_stack: Stack, marks: list[str], copies: int, report: Callable[[str], None]
) -> None:
    api = demo_stack.api()

    def ask(text: str) -> raw.Reply:
        content = image_message(data_uri(files.SCENE), text=text)
        asked = body(model=DEMO, messages=content, temperature=0, max_tokens=40)
        return raw.post(api, json.dumps(asked).encode())

    before = ask("What is in the picture?").text
    assert "red circle" in before and "blue square" in before
    single = [ask(mark) for mark in marks]
    many = [ask(mark * copies) for mark in marks]
    report(
        f"special tokens to the demo model: {len(single)} marks answered, {len(many)} x "
        f"{copies:,} refused, slowest {raw.slowest_s(many):.1f} s"
    )
    assert {reply.status for reply in single} == {200}
    assert {(reply.status, reply.error["code"]) for reply in many} == {
        (400, "context_length_exceeded")
    }
    assert ask("What is in the picture?").text == before
    nothing_broke(demo_stack)


OUTSIDE = [
    "/../../../../etc/passwd", "/..%2f..%2f..%2fetc%2fpasswd", "/%2e%2e/%2e%2e/etc/passwd",
    "/....//....//etc/passwd", "/..\\..\\etc\\passwd", "/%252e%252e%252fetc/passwd",
    "/..%c0%af..%c0%afetc/passwd", "//etc/passwd", "/file:///etc/passwd", "/etc/passwd%00.png",
]  # fmt: skip
API_PLACES = ["", "/v1/models", "/v1/jobs"]
PAGE_PLACES = [
    "", "/pictures", "/gradio_api/file=", "/gradio_api/file=/etc/passwd#", "/gradio_api/stream",
    "/static", "/assets", "/theme.css", "/custom_component", "/gradio_api/upload_progress",
]  # fmt: skip


def test_no_path_leads_outside(echo_stack: Stack, report: Callable[[str], None]) -> None:
    doors = {echo_stack.api(): API_PLACES, echo_stack.ui(): PAGE_PLACES}
    tried = [
        (door, place + path)
        for door, places in doors.items()
        for place in places
        for path in OUTSIDE
    ]
    for door, path in tried:
        request = f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        reply = raw.exchange(door, request.encode())
        refused = (308, 400, 403, 404, 405)  # 308 leads to the same path with single slashes
        assert reply.status in refused, (path, reply)
        assert b"root:" not in reply.content, path
    report(f"paths that lead outside: {len(tried)} tried, all refused")
    nothing_broke(echo_stack)


def test_no_address_is_called(echo_stack: Stack, report: Callable[[str], None]) -> None:
    api = echo_stack.api()
    with scripted({"/x.png": lambda exchange: exchange.reply(200, files.SCENE)}) as other:
        port = other.url.rpartition(":")[2]
        hosts = [
            "127.0.0.1", "localhost", "2130706433", "0x7f000001", "0177.0.0.1", "127.1",
            "[::ffff:127.0.0.1]", "a@127.0.0.1", "169.254.169.254", "[fd00:ec2::254]",
        ]  # fmt: skip
        urls = [f"{kind}://{host}:{port}/x.png" for kind in ("http", "HTTPS") for host in hosts]
        urls += [
            f"//127.0.0.1:{port}/x.png",
            f" http://127.0.0.1:{port}/x.png",
            "file:///etc/passwd",
        ]
        for kind in ("image_url", "video_url"):
            for url in urls:
                part = {"type": kind, kind: {"url": url}}
                reply = post(api, body(messages=[{"role": "user", "content": [part]}]))
                assert (reply.status_code, reply.json()["error"]["code"]) == (400, "invalid_image")
        assert other.seen == []
    report(f"addresses of pictures and videos: {2 * len(urls)} tried, none called")


COMMANDS = ["os.system", "subprocess.check_output", "builtins.eval", "broker.submission.Submitter"]


def test_a_job_with_a_foreign_function(
    stack: Stack, report: Callable[[str], None], runs: int
) -> None:
    worker = stack.echo_worker()
    api = stack.api()
    queue = Queue("echo", connection=stack.redis, serializer=JSONSerializer)
    marker = stack.folder / "owned"
    for _ in range(runs):
        pushed = [queue.enqueue(name, f"touch {marker}") for name in COMMANDS]
        for job in pushed:
            until(lambda job=job: f"job {job.id} is refused" in worker.output, "it is refused")
        assert post(api, body()).status_code == 200
    report(
        f"jobs with functions of their own: {runs * len(COMMANDS)} pushed, all refused and logged"
    )
    assert not marker.exists()
    assert str(marker) not in worker.output
    assert stack.redis.lrange("rq:queue:echo:intermediate", 0, -1) == []
    nothing_broke(stack)


def test_no_secret_is_in_any_log(stack: Stack, report: Callable[[str], None]) -> None:
    secrets = key, token, said = "sk-very-private", "very-private-token", "a private question"
    stack.echo_worker()
    allowed = {"HELIOGRAPH_CONTROL_TOKEN": token, "HELIOGRAPH_WORKER_ADDRESSES": "10.0.0.0/8"}
    api = stack.api(**allowed)
    headers = {"Authorization": f"Bearer {key}"}
    assert post(api, body(said), **headers).status_code == 200
    assert post(api, body(said, temperature=said), **headers).status_code == 400
    assert post(api, body(said, model="another"), **headers).status_code == 404
    through_proxy = {"X-Forwarded-For": "203.0.113.9"}
    for sent, status in ((token, 200), (token + "x", 403), (key, 403)):
        headers = {"Authorization": f"Bearer {sent}", **through_proxy}
        worker = registration("http://10.1.2.3:40000", "other")
        assert originals.post(api, "/register_worker", worker, **headers).status == status
    until(lambda: stack.processes[-1].output.count(" POST ") == 6, "all are logged")
    logs = [process.output for process in stack.processes]
    assert [secret for secret in secrets for log in logs if secret in log] == []
    kept = [repr(stack.redis.dump(name)) for name in stack.redis.scan_iter()]
    assert [secret for secret in (key, token) for value in kept if secret in value] == []
    report(f"secrets: {len(secrets)} sent, none in {len(logs)} logs, no key in {len(kept)} records")
