"""Every form of address that REDIS_URL may have, against servers that really speak it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from broker.connection import connect
from broker.events import End
from broker.messages import ChatMessage, SamplingParams, TextPart
from frontend.service import Service
from tests.stack import Stack, embedded_valkey, free_port, until, until_answers

BINARY = shutil.which("redis-server") or "redis-server"


@contextmanager
def server(url: str, *arguments: str) -> Iterator[redis.Redis]:
    """A redis-server with these arguments; yields a client of `url` once it answers."""
    popen = subprocess.Popen([BINARY, *arguments, "--save", ""], stdout=subprocess.DEVNULL)
    try:
        until_answers(popen, url)
        with connect(url) as client:
            yield client
    finally:
        popen.terminate()
        popen.wait(10)


def test_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "redis.sock"
    with server(f"unix://{path}", "--port", "0", "--unixsocket", str(path)) as client:
        client.set("k", "v")
        assert client.get("k") == b"v"


def test_tls(tmp_path: Path) -> None:
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1",
         "-keyout", key, "-out", cert, "-subj", "/CN=localhost",
         "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True, capture_output=True,
    )  # fmt: skip
    port = str(free_port())
    tls = ("--tls-cert-file", str(cert), "--tls-key-file", str(key), "--tls-auth-clients", "no")
    with server(
        f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={cert}",
        *("--port", "0", "--tls-port", port, "--tls-ca-cert-file", str(cert), *tls),
    ) as client:
        client.set("k", "v")
        assert client.get("k") == b"v"
        strange = connect(f"rediss://127.0.0.1:{port}/0")
        with pytest.raises(redis.ConnectionError, match="CERTIFICATE_VERIFY_FAILED"):
            strange.ping()
        strange.close()


def test_a_whole_request_goes_through_sentinel(tmp_path: Path) -> None:
    port = free_port()
    with embedded_valkey(tmp_path, port):
        conf = tmp_path / "sentinel.conf"
        sentinel = free_port()
        conf.write_text(f"port {sentinel}\nsentinel monitor main 127.0.0.1 {port} 1\n")
        popen = subprocess.Popen([BINARY, str(conf), "--sentinel"], stdout=subprocess.DEVNULL)
        stack = Stack(f"sentinel://127.0.0.1:{sentinel}/main?db=0", tmp_path)
        try:

            def answers() -> bool:
                try:
                    return bool(stack.redis.ping())
                except redis.RedisError:
                    return False

            until(answers, "the master is found through the sentinel")
            stack.echo_worker()
            service = Service(stack.settings())
            request = service.submit(
                "echo",
                [ChatMessage(role="user", content=(TextPart(text="by way of sentinel"),))],
                SamplingParams(),
            )
            (end,) = [event for event in service.follow(request) if isinstance(event, End)]
            assert end.finish_reason == "stop"
            service.close()
        finally:
            stack.stop()
            popen.terminate()
            popen.wait(10)
