"""Runs the API in gunicorn, with one greenlet per connection, so that a process holds thousands.

The process must be patched by gevent before this module is imported (`frontend.__main__` does it):
the Redis client, ssl and threads are bound to what they find on import.
"""

from __future__ import annotations

import logging
import os
import resource
import socket
from contextlib import suppress
from typing import Any

import gevent
from flask import Flask
from gevent import monkey
from gevent.threadpool import ThreadPool
from gunicorn.app.base import BaseApplication  # type: ignore[import-untyped]
from gunicorn.workers.ggevent import GeventWorker  # type: ignore[import-untyped]

from broker import logs
from broker.errors import HeliographError
from broker.loading import uncollected
from broker.ports import check_free
from broker.settings import Settings
from frontend.api.answer import TICK_S
from frontend.api.app import create_app
from frontend.api.client import STALL_S, bound
from frontend.api.sse import DONE
from frontend.service import Service

log = logging.getLogger(__name__)

CONNECTIONS = 4096
"""Open connections a process holds; more wait in the listening socket."""

DECODERS = 2
"""Pictures that are decoded at a time, outside the event loop; each may need 100 MB."""

HANG_UP_S = 2 * TICK_S
"""After a signal to stop: streams have said goodbye by then."""

_LAST_CHUNK = DONE + b"\r\n"

GRACE_S = 3
"""After a signal to stop: what is still there then is killed."""


class Worker(GeventWorker):  # type: ignore[misc]
    """gunicorn's gevent worker; when it is told to stop, its open connections end in order."""

    def __init__(self, *args: Any, **options: Any) -> None:
        """Start without connections, and without the application, which is loaded later."""
        super().__init__(*args, **options)
        self.wsgi: Flask | None = None
        self._clients: set[socket.socket] = set()

    def handle(self, listener: Any, client: socket.socket, addr: Any) -> None:
        """Serve one connection."""
        bound(client)
        self._clients.add(client)
        try:
            super().handle(listener, client, addr)
        finally:
            self._clients.discard(client)

    def handle_request(self, listener: Any, request: Any, client: socket.socket, addr: Any) -> None:
        """Serve one request; hang up on a client that takes nothing for too long."""
        sender = _Sender(client)
        try:
            try:
                super().handle_request(listener, request, sender, addr)
            except StopIteration:  # the connection is to be closed
                sender.flush()
                raise
            sender.flush()
        except TimeoutError:
            log.warning(
                "a client took next to nothing for %.0f s: its connection is closed", STALL_S
            )
            raise StopIteration from None

    def handle_exit(self, sig: int, frame: object) -> None:
        """Accept nothing more, let the answers say goodbye, then hang up on idle connections."""
        if self.wsgi is not None:
            self.wsgi.extensions["heliograph.answers"].stop()
        gevent.spawn_later(HANG_UP_S, self._hang_up)
        super().handle_exit(sig, frame)

    # On Ctrl-C gunicorn would drop everything at once; its master still ends what takes too long.
    handle_quit = handle_exit

    def _hang_up(self) -> None:
        # Through a twin that gevent does not know: its own would raise in whoever is reading.
        plain_socket = monkey.get_original("socket", "socket")
        for client in tuple(self._clients):
            with suppress(OSError), plain_socket(fileno=os.dup(client.fileno())) as twin:
                twin.shutdown(socket.SHUT_RD)


class _Sender:
    """A socket that sends what fits at once; gevent's asks for the size of its buffer each time.

    Each piece that is sent wakes its reader, so the headers go with what they head, and the last
    words of a stream with the chunk that ends it.
    """

    def __init__(self, client: socket.socket) -> None:
        self._client = client
        self._held = b""
        self._has_begun = False

    def sendall(self, data: bytes) -> None:
        self._held += data
        if self._has_begun and not data.endswith(_LAST_CHUNK):
            self.flush()
        self._has_begun = True

    def flush(self) -> None:
        """Send what is held."""
        data, self._held = self._held, b""
        if data and (sent := self._client.send(data)) < len(data):
            self._client.sendall(data[sent:])

    def close(self) -> None:
        """Close the connection; what is held is not sent any more."""
        self._held = b""
        self._client.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)


class Server(BaseApplication):  # type: ignore[misc]
    """gunicorn, configured in code."""

    def __init__(self, settings: Settings) -> None:
        """Take address and limits from `settings`."""
        self._settings = settings
        super().__init__()

    def load_config(self) -> None:
        """Tell gunicorn what to do; it reads no file and no command line."""
        options = {
            "bind": _address(self._settings),
            "worker_class": Worker,
            "workers": 1,
            "worker_connections": CONNECTIONS,
            "backlog": 2048,
            "graceful_timeout": GRACE_S,
            "keepalive": 15,
            "loglevel": "warning",
            "control_socket_disable": True,
            "proc_name": "heliograph-api",
            "when_ready": self._when_ready,
        }
        for name, value in options.items():
            self.cfg.set(name, value)

    def load(self) -> Any:
        """Build the application, in the process that serves it."""
        decoders = ThreadPool(DECODERS)
        hub = gevent.get_hub()
        # A refused picture is an answer to its sender; gevent would print a traceback besides.
        hub.NOT_ERROR = (*hub.NOT_ERROR, HeliographError)
        with uncollected():
            return create_app(self._settings, Service(self._settings, offload=decoders.apply))

    def _when_ready(self, _arbiter: object) -> None:
        log.info("API listens on http://%s", _address(self._settings))


def serve(settings: Settings) -> None:
    """Serve until a signal asks to stop; never returns.

    Raises:
        ConfigurationError: the port cannot be used.
    """
    logs.set_up(settings)
    check_free(settings.host, settings.api_port, "HELIOGRAPH_API_PORT")
    _allow_many_files()
    Server(settings).run()


def _address(settings: Settings) -> str:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"{host}:{settings.api_port}"


def _allow_many_files() -> None:
    # One socket per client; the usual soft limit of 1024 files would end at a thousand streams.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
