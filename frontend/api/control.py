"""Who may register workers, and under which addresses: the control plane, closed by default.

A program of this machine may, and whoever knows the control token. What comes through a proxy or
from a browser's page is not this machine's, though its connection may start here. Names are
resolved here, but nothing is called: the bridge does that, and checks again (`broker.addresses`).
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass

from flask import Request

from broker.addresses import AllowList, is_loopback, split_url
from broker.errors import InvalidRequest
from broker.settings import Settings

_PASSED_ON = ("Forwarded", "Via", "X-Real-Ip", "Origin", "Sec-Fetch-Site")
"""Headers of proxies and browsers; of the `X-Forwarded-` ones, any counts."""


class ControlPlaneClosed(InvalidRequest):
    """The sender is neither a program of this machine nor knows the token."""

    status = 403
    code = "control_plane_closed"


@dataclass(frozen=True, slots=True)
class ControlPlane:
    """What guards the registration of workers in one process."""

    token: bytes
    allowed: AllowList

    @classmethod
    def of(cls, settings: Settings) -> ControlPlane:
        """Read token and allowed addresses.

        Raises:
            ConfigurationError: HELIOGRAPH_WORKER_ADDRESSES does not parse.
        """
        return cls(settings.control_token.encode(), AllowList.parse(settings.worker_addresses))

    def admit(self, request: Request) -> None:
        """Let a sender pass.

        Raises:
            ControlPlaneClosed: it may not register workers.
        """
        if not is_local(request) and not self._knows_token(request):
            raise ControlPlaneClosed(
                "Workers are registered by programs of the API's own machine, without a proxy "
                "between, or with the control token (HELIOGRAPH_CONTROL_TOKEN) as a Bearer token "
                "or as the password of http://any:TOKEN@host:port."
            )

    def check_address(self, worker_name: str, request: Request) -> None:
        """Accept the address under which a worker wants to be called.

        Raises:
            InvalidRequest: it is not `http://host:port` or `https://host:port`.
            AddressRefused: it cannot be resolved or is not allowed; loopback is without a rule,
                but only when a program of this machine says so.
        """
        host, port = split_url(worker_name)
        self.allowed.check(host, port, loopback=is_local(request))

    def _knows_token(self, request: Request) -> bool:
        given = request.authorization
        said = (given.token or given.password or "") if given else ""
        return bool(self.token) and hmac.compare_digest(self.token, said.encode())


def is_local(request: Request) -> bool:
    """Whether a request comes from a program of this machine: no proxy, no browser."""
    passed_on = any(name in request.headers for name in _PASSED_ON) or any(
        name.lower().startswith("x-forwarded-") for name, _ in request.headers
    )
    return is_loopback(request.remote_addr or "") and not passed_on
