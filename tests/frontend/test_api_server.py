"""The API as a process: start, stop, busy port, what it imports, what it logs, many streams."""

from __future__ import annotations

import resource
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack

import pytest

from broker import keys
from tests.frontend.clients import Connection, body, data_uri, image_message, post
from tests.stack import Process, Stack, free_port, until


def process_of(stack: Stack) -> Process:
    """The process started last."""
    return stack.processes[-1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_api_within_seconds_even_with_open_streams(
    stack: Stack, number: signal.Signals
) -> None:
    worker = stack.echo_worker("tokens_per_s=20&tokens=2000")
    api = stack.api()
    process = process_of(stack)
    with ExitStack() as open_streams:
        clients = [open_streams.enter_context(Connection(api)) for _ in range(5)]
        for client in clients:
            client.send(body(stream=True))
            client.wait_for("id: 1-2")
        began = time.monotonic()
        process.signal(number)
        for client in clients:
            assert '"code":"server_stopping"' in client.wait_for('data: {"error"')
            client.wait_for("data: [DONE]")
        assert process.wait() == 0
        assert time.monotonic() - began < 3.0
    until(lambda: stack.info(worker).running == 0, "all slots are free")  # type: ignore[union-attr]
    assert "Traceback" not in process.output


def test_a_damaged_picture_leaves_no_traceback_in_the_log(stack: Stack) -> None:
    stack.echo_worker()
    api = stack.api()
    answer = post(
        api, {"model": "echo", "messages": image_message(data_uri(b"\x89PNG no picture"))}
    )
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "invalid_image"
    until(lambda: " 400 " in process_of(stack).output, "the request is logged")
    assert "Traceback" not in process_of(stack).output


def test_a_busy_port_is_told_in_one_sentence(stack: Stack) -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", free_port()))
        busy.listen()
        port = busy.getsockname()[1]
        process = stack.start("api", "frontend", "api", HELIOGRAPH_API_PORT=str(port))
        assert process.wait() == 1
    (line,) = process.output.strip().splitlines()
    assert f"Port {port} on 127.0.0.1 cannot be used" in line
    assert "HELIOGRAPH_API_PORT" in line


def test_a_wrong_setting_is_told_in_one_sentence(stack: Stack) -> None:
    process = stack.start("api", "frontend", "api", HELIOGRAPH_API_PORTS="1")
    assert process.wait() == 1
    (line,) = process.output.strip().splitlines()
    assert line.startswith("HELIOGRAPH_API_PORTS is not a setting.")


def test_importing_the_packages_pulls_in_no_server_and_no_page() -> None:
    heavy = "gevent", "gunicorn", "gradio", "torch", "flask"
    program = f"""
import sys, frontend, frontend.__main__, frontend.api, frontend.service, broker
print([name for name in {heavy!r} if name in sys.modules])
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert found.stdout.strip() == "[]", found.stderr


def test_the_log_has_one_line_a_request_without_a_word_of_it(stack: Stack) -> None:
    stack.echo_worker()
    api = stack.api()
    process = process_of(stack)
    secrets = "a-very-private-question", "sk-a-very-private-key"
    headers = {"Authorization": f"Bearer {secrets[1]}"}
    job_id = post(api, body(secrets[0]), **headers).json()["id"].removeprefix("chatcmpl-")
    assert post(api, body(secrets[0], temperature=secrets[0]), **headers).status_code == 400
    assert post(f"{api}/x%0Ay", body(), **headers).status_code == 404

    def lines() -> list[str]:
        return [line for line in process.output.splitlines() if " POST " in line]

    until(lambda: len(lines()) == 3, "three lines are written")
    assert lines()[0].endswith(f" ms job {job_id}")
    assert "POST /v1/chat/completions 200" in lines()[0]
    assert "POST /v1/chat/completions 400" in lines()[1]
    assert r"POST /x\ny/v1/chat/completions 404" in lines()[2]
    assert not [secret for secret in secrets if secret in process.output]


def test_many_open_streams_share_one_subscriber_and_few_connections(stack: Stack) -> None:
    streams = 150
    slots = {"limit-model-concurrency": str(streams)}
    stack.echo_worker("tokens_per_s=2&tokens=8", **slots)
    before = stack.redis.info("clients")["connected_clients"]
    api = stack.api()
    with ExitStack() as opened:
        clients = [opened.enter_context(Connection(api)) for _ in range(streams)]
        for client in clients:
            client.send(body("word", stream=True))
        for client in clients:
            client.wait_for("id: 1-2")
        channels = stack.redis.pubsub_channels(keys.live("*"))
        subscribed = [
            client for client in stack.redis.client_list(_type="pubsub") if int(client["sub"]) > 2
        ]
        connected = stack.redis.info("clients")["connected_clients"]
        for client in clients:
            assert sum(line.startswith("id: ") for line in client.lines_until_done()) >= 6
    assert len(channels) == streams
    assert len(subscribed) == 1
    assert connected - before <= 2 * 32 + 2


def test_the_process_may_open_as_many_files_as_it_is_allowed_to(stack: Stack) -> None:
    stack.api()
    process = process_of(stack)
    soft, hard = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
    assert soft == hard
