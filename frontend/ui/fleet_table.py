"""The fleet as tables of HTML; every value that comes from elsewhere is escaped."""

from __future__ import annotations

from broker.messages import ModelInfo
from frontend.operations import FleetView, WorkerView
from frontend.ui.table import table

_NOBODY = (
    '<p class="line">No worker is alive. Start one, for instance with '
    "<code>python -m workers</code>.</p>"
)


def tables(fleet: FleetView, *, for_operator: bool) -> str:
    """All models and workers; operators are told machines and processes as well."""
    if not fleet.workers:
        return _NOBODY
    models = table(
        "Models",
        ("Model", "Workers", "Running", "Waiting", "Tokens/s"),
        (_model(info, paused=info.name in fleet.paused) for info in fleet.models),
    )
    heads = ("Worker", "Model", "State", "Engine", "Device", "Running", "Tokens/s", "Heartbeat")
    if not for_operator:
        return models + table("Workers", heads, map(_worker, fleet.workers))
    rows = ((*_worker(view), f"{view.info.pid} on {view.info.host}") for view in fleet.workers)
    return models + table("Workers", (*heads, "Process"), rows)


def _model(info: ModelInfo, *, paused: bool) -> tuple[str, ...]:
    return (
        f"{info.name} (paused)" if paused else info.name,
        f"{info.ready} of {info.workers} ready",
        f"{info.running} of {info.slots}",
        str(info.queue_length),
        f"{info.speed:.1f}",
    )


def _worker(view: WorkerView) -> tuple[str, ...]:
    info = view.info
    state = f"loading {info.progress} %" if info.state == "loading" else info.state
    return (
        info.id,
        info.model,
        f"{state}: {info.reason}" if info.reason else state,
        info.engine,
        info.device,
        f"{info.running} of {info.slots}",
        f"{info.speed:.1f}",
        f"{view.silent_s:.1f} s ago",
    )


def login(*, possible: bool, done: bool) -> str:
    """What stands in the corner: a form, a way out, or why there is neither."""
    if not possible:
        return (
            '<p class="line">To pause models and drain workers here, set '
            "<code>HELIOGRAPH_OPERATOR_TOKEN</code>.</p>"
        )
    if done:
        return (
            '<form class="operator" method="post" action="fleet/logout">'
            "<span>You may give orders.</span><button>Log out</button></form>"
        )
    return (
        '<form class="operator" method="post" action="fleet/login">'
        '<label for="operator-token">Operator token</label>'
        '<input id="operator-token" name="token" type="password" required '
        'autocomplete="current-password"><button>Log in</button></form>'
    )
