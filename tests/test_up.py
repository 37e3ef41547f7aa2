"""The whole stack as people start it: addresses, right answers from three workers, a clean end."""

from __future__ import annotations

import base64
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import openai
import psutil
import pytest
import redis

from broker import keys, registry
from broker.connection import connect
from tests.pictures import scene
from tests.stack import free_port, until

ROOT = Path(__file__).parent.parent


@dataclass
class Up:
    """A running `python -m broker up`."""

    popen: subprocess.Popen[bytes]
    log: Path
    api: str
    ui: str
    redis: redis.Redis

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    folder = tmp_path_factory.mktemp("up")
    api, ui, redis_port = free_port(), free_port(), free_port()
    env = {name: value for name, value in os.environ.items() if name != "REDIS_URL"} | {
        "HELIOGRAPH_API_PORT": str(api),
        "HELIOGRAPH_UI_PORT": str(ui),
        "HELIOGRAPH_REDIS_PORT": str(redis_port),
        "HELIOGRAPH_DATA_DIR": str(folder / "data"),
        "HELIOGRAPH_WORKERS": "3",
    }
    log = folder / "up.log"
    with log.open("wb") as output:
        popen = subprocess.Popen(
            [sys.executable, "-m", "broker", "up"],
            cwd=ROOT,
            env=env,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    made = Up(
        popen,
        log,
        f"http://127.0.0.1:{api}",
        f"http://127.0.0.1:{ui}",
        connect(f"redis://127.0.0.1:{redis_port}/0"),
    )
    yield made
    made.redis.close()
    if popen.poll() is None:
        os.killpg(popen.pid, signal.SIGKILL)
        popen.wait()


def test_the_stack_comes_up_and_prints_its_addresses(up: Up) -> None:
    def is_up() -> bool:
        assert up.popen.poll() is None, up.output
        return up.api in up.output and up.ui in up.output

    until(is_up, "both addresses are printed", 90)

    def ready() -> bool:
        try:
            return sum(info.state == "ready" for info in registry.workers(up.redis)) == 3
        except redis.RedisError:
            return False

    until(ready, f"three workers are ready\n{up.output}", 90)
    for address in (up.api + "/health", up.ui):
        with urllib.request.urlopen(address, timeout=10) as answer:
            assert answer.status == 200
    assert "Traceback" not in up.output


COLOURS = ("red", "green", "blue")
KINDS = ("circle", "square", "triangle")


def test_sixty_parallel_requests_are_answered_right_by_three_workers(up: Up) -> None:
    client = openai.OpenAI(base_url=up.api + "/v1", api_key="none", max_retries=0)
    asked = [(KINDS[n % 3], COLOURS[n // 3 % 3], 60 + n % 7 * 18) for n in range(60)]

    def ask(what: tuple[str, str, int]) -> str:
        kind, colour, x = what
        picture = base64.b64encode(scene((kind, colour, (x, 112)))).decode()
        answer = client.chat.completions.create(
            model="heliograph-demo",
            temperature=0,
            messages=[
                {
                    "role": "user",
                    "content": [
                        {
                            "type": "image_url",
                            "image_url": {"url": f"data:image/png;base64,{picture}"},
                        },
                        {"type": "text", "text": "What is in the picture?"},
                    ],
                }
            ],
        )
        return answer.choices[0].message.content or ""

    with ThreadPoolExecutor(60) as pool:
        answers = list(pool.map(ask, asked))
    wanted = [f"a {colour} {kind}" for kind, colour, _ in asked]
    wrong = [(w, a) for w, a in zip(wanted, answers, strict=True) if w not in a.lower()]
    assert not wrong
    entries = up.redis.xrange(keys.CHAT_LOG)
    assert len({fields[b"worker"] for _, fields in entries}) == 3  # type: ignore[union-attr]


def test_it_outlives_its_valkey(up: Up) -> None:
    """Everybody waits for the one that is started in its place, which knows what was."""
    chats = up.redis.xlen(keys.CHAT_LOG)
    (valkey,) = (
        process
        for process in psutil.Process(up.popen.pid).children(recursive=True)
        if "valkey-server" in process.name()
    )
    valkey.kill()
    until(lambda: "Redis answers again" in up.output, "they found it again")
    client = openai.OpenAI(base_url=up.api + "/v1", api_key="none")
    client.chat.completions.create(
        model="heliograph-demo", messages=[{"role": "user", "content": "Hello"}]
    )
    until(lambda: up.redis.xlen(keys.CHAT_LOG) == chats + 1, "the chat is in the log with the rest")
    assert up.popen.poll() is None
    assert "Traceback" not in up.output, up.output


def test_ctrl_c_ends_everything_and_leaves_no_process(up: Up) -> None:
    processes = [psutil.Process(up.popen.pid)]
    processes += processes[0].children(recursive=True)
    assert len(processes) >= 7, "honcho, Valkey and its keeper, three workers, API, chat page"
    os.killpg(up.popen.pid, signal.SIGINT)
    up.popen.wait(20)
    gone, alive = psutil.wait_procs(processes, timeout=5)
    assert not alive
    assert len(gone) == len(processes)
    assert "Traceback" not in up.output, up.output
