"""Settings: every value is checked, unknown names are refused."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from broker.connection import connect
from broker.errors import ConfigurationError
from broker.ports import check_free
from broker.settings import Settings
from tests.stack import Process, embedded_valkey, free_port, until


def test_defaults_are_the_documented_ones() -> None:
    settings = Settings.from_environment({})
    assert (settings.api_port, settings.ui_port, settings.redis_port) == (8000, 7860, 6379)
    assert settings.host == "127.0.0.1"
    assert settings.queue_timeout_s == 600
    assert settings.url == "redis://127.0.0.1:6379/0"


def test_a_queue_timeout_may_be_switched_off() -> None:
    assert Settings.from_environment({"HELIOGRAPH_QUEUE_TIMEOUT_S": "0"}).queue_timeout_s == 0


def test_values_are_read_by_type() -> None:
    settings = Settings.from_environment(
        {"HELIOGRAPH_API_PORT": "81", "HELIOGRAPH_DATA_DIR": "/x", "REDIS_URL": "unix:///s"}
    )
    assert (settings.api_port, settings.data_dir, settings.url) == (81, Path("/x"), "unix:///s")


@pytest.mark.parametrize(
    ("environ", "sentence"),
    [
        ({"HELIOGRAPH_API_PORT": "eighty"}, "HELIOGRAPH_API_PORT='eighty' does not parse"),
        ({"HELIOGRAPH_API_PORT": "70000"}, "HELIOGRAPH_API_PORT=70000 is not a port"),
        ({"HELIOGRAPH_QUEUE_TIMEOUT_S": "-1"}, "HELIOGRAPH_QUEUE_TIMEOUT_S=-1 must be at least 0"),
        ({"HELIOGRAPH_WORKERS": "0"}, "HELIOGRAPH_WORKERS=0 must be at least 1"),
        (
            {"HELIOGRAPH_UI_GRACE_S": "3601"},
            "HELIOGRAPH_UI_GRACE_S=3601 is too long: use 1 to 3600",
        ),
        ({"HELIOGRAPH_LOG_LEVEL": "loud"}, "HELIOGRAPH_LOG_LEVEL='loud' is no level"),
        ({"HELIOGRAPH_PUBLIC_URL": "gpu1:8000"}, "HELIOGRAPH_PUBLIC_URL='gpu1:8000' is no address"),
        ({"HELIOGRAPH_MODEL_LIST_MODE": "x"}, "HELIOGRAPH_MODEL_LIST_MODE='x' is none of reload, "),
        ({"HELIOGRAPH_EMBED": "yes"}, "HELIOGRAPH_EMBED='yes' is none of off, on"),
        ({"HELIOGRAPH_SHARE": "yes"}, "HELIOGRAPH_SHARE='yes' is none of off, on"),
        (
            {"HELIOGRAPH_EMBED_ORIGINS": "https://a.example b.example; script-src *"},
            "HELIOGRAPH_EMBED_ORIGINS: 'b.example;' is no origin: write https://host",
        ),
        (
            {"HELIOGRAPH_TRUSTED_PROXIES": "10.0.0.1/8"},
            "HELIOGRAPH_TRUSTED_PROXIES='10.0.0.1/8': 10.0.0.1/8 has host bits set. Write",
        ),
        ({"HELIOGRAPH_TRUSTED_PROXIES": "*"}, "HELIOGRAPH_TRUSTED_PROXIES='\\*': '\\*' does not"),
        ({"HELIOGRAPH_LOG_IP": "on"}, "HELIOGRAPH_LOG_IP='on' is none of full, off"),
        ({"HELIOGRAPH_CONCURRENCY_COUNT": "0"}, "HELIOGRAPH_CONCURRENCY_COUNT=0 must be at least"),
        (
            {"HELIOGRAPH_CONCURRENCY_COUNT": "1001"},
            "HELIOGRAPH_CONCURRENCY_COUNT=1001 is too many: use 1 to 1000, and more processes",
        ),
        ({"HELIOGRAPH_APIPORT": "80"}, "HELIOGRAPH_APIPORT is not a setting"),
    ],
)
def test_a_wrong_setting_is_named_with_its_value(environ: dict[str, str], sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        Settings.from_environment(environ)


@pytest.mark.parametrize("url", ["http://x", "localhost:6379", "sentinel://host/svc"])
def test_a_redis_url_of_no_known_form_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="REDIS_URL"):
        connect(url)


def test_origins_have_scheme_host_and_port() -> None:
    told = "https://a.example http://*.b.example:8443 http://127.0.0.1:80 http://[::1]:80"
    settings = Settings.from_environment({"HELIOGRAPH_EMBED_ORIGINS": told})
    assert settings.embed_origins == told


def test_importing_the_packages_is_light() -> None:
    code = (
        "import sys, broker, workers, frontend, broker.channel, broker.registry, broker.feedback\n"
        "heavy = {'torch', 'gradio', 'flask', 'PIL', 'transformers', 'gevent'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_workers_help_needs_no_torch() -> None:
    code = (
        "import sys\n"
        "from workers.__main__ import parse_flags\n"
        "from broker.settings import Settings\n"
        "try: parse_flags(Settings(), ['--help'])\n"
        "except SystemExit: pass\n"
        "assert 'torch' not in sys.modules"
    )
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    for flag in ("model-path", "model-name", "device", "load-8bit", "limit-model-concurrency"):
        assert f"--{flag}" in shown.stdout


def test_with_redis_url_set_no_server_is_started(tmp_path: Path) -> None:
    port = free_port()
    env = {"REDIS_URL": "redis://elsewhere/0", "HELIOGRAPH_REDIS_PORT": str(port)}
    keeper = Process(
        "serve",
        [sys.executable, "-m", "broker", "serve"],
        env | {"HELIOGRAPH_DATA_DIR": str(tmp_path / "data")},
        tmp_path,
    )
    try:
        until(lambda: "REDIS_URL is set" in keeper.output, "it says that it starts none")
        check_free("127.0.0.1", port, "HELIOGRAPH_REDIS_PORT")
        assert not (tmp_path / "data").exists()
        keeper.signal(signal.SIGTERM)
        assert keeper.wait() == 0
    finally:
        keeper.stop()


def test_nobody_is_let_in_while_a_port_is_looked_at() -> None:
    port, done = free_port(), threading.Event()
    let_in: list[int] = []

    def knock() -> None:
        while not done.is_set():
            with socket.socket() as visitor:
                if visitor.connect_ex(("127.0.0.1", port)) == 0:
                    let_in.append(port)

    visitors = threading.Thread(target=knock)
    visitors.start()
    for _ in range(3000):
        check_free("127.0.0.1", port, "HELIOGRAPH_REDIS_PORT")
    done.set()
    visitors.join()
    assert not let_in


def test_a_busy_port_is_one_sentence_with_port_and_setting(tmp_path: Path) -> None:
    port = free_port()
    with embedded_valkey(tmp_path, port):
        for command in ("serve", "up"):
            tried = subprocess.run(
                [sys.executable, "-m", "broker", command],
                env={
                    "HELIOGRAPH_REDIS_PORT": str(port),
                    "HELIOGRAPH_DATA_DIR": str(tmp_path / "d"),
                },
                capture_output=True,
                text=True,
                timeout=30,
            )
            assert tried.returncode == 1
            assert f"Port {port} on 127.0.0.1" in tried.stderr
            assert "HELIOGRAPH_REDIS_PORT" in tried.stderr
            assert "Traceback" not in tried.stderr
