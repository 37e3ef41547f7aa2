"""The fleet page: tables of what lives, charts of the last hour, and orders for operators."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import gradio as gr
import pandas as pd
from gradio.components.navbar import Navbar

from broker.errors import HeliographError
from broker.history import SPAN_S, Point
from frontend.operations import FleetView, Operations
from frontend.ui import fleet_table, wording
from frontend.ui.fleet_login import COOKIE

log = logging.getLogger(__name__)

REFRESH_S = 2.0
CHARTS_S = 10.0
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}

Outputs = tuple[Any, ...]

_CHARTS: tuple[
    tuple[str, type[gr.LinePlot | gr.ScatterPlot], Callable[[Point], float | None]], ...
] = (
    ("Jobs waiting", gr.LinePlot, lambda point: point.queued),
    ("Tokens/s", gr.LinePlot, lambda point: point.tokens_per_s),
    ("Time to first token, s", gr.ScatterPlot, lambda point: point.first_token_s),
)


class FleetPage:
    """The components, then the events; built within a page of Gradio's."""

    def __init__(self, page: gr.Blocks, operations: Operations) -> None:
        self._operations = operations
        Navbar(visible=False)
        gr.HTML(
            "<h1>Fleet</h1><p>Workers that live, and the last hour of each model.</p>"
            '<a href="./">Chat</a>',
            elem_id="heading",
            padding=False,
        )
        self._login = gr.HTML(elem_id="login", padding=False)
        self._line = gr.HTML(elem_id="line", padding=False)
        with gr.Row(visible=False, elem_id="orders") as self._orders:
            self._model = gr.Dropdown([], label="Model", min_width=160, interactive=True)
            pause, resume = (gr.Button(name, min_width=90) for name in ("Pause", "Resume"))
            self._worker = gr.Dropdown([], label="Worker", min_width=160, interactive=True)
            drain = gr.Button("Drain", min_width=90)
        self._tables = gr.HTML(elem_id="tables", padding=False)
        with gr.Row(elem_id="charts"):
            self._charts = [
                plot(
                    x="time",
                    y="value",
                    color="model",
                    title=name,
                    x_title=" ",
                    y_title=" ",
                    color_title=" ",
                    y_lim=[0, None],
                    y_axis_format="~g",
                    height=240,
                    min_width=300,
                )
                for name, plot, _ in _CHARTS
            ]
        self._connect(page, pause, resume, drain)

    def _connect(
        self, page: gr.Blocks, pause: gr.Button, resume: gr.Button, drain: gr.Button
    ) -> None:
        operations = self._operations
        shown = [self._login, self._tables, self._orders, self._model, self._worker]
        chosen = [self._model, self._worker]
        for event in (page.load, gr.Timer(REFRESH_S).tick):
            event(self._show, chosen, [*shown, self._line], preprocess=False, **QUIET)
        for event in (page.load, gr.Timer(CHARTS_S).tick):
            event(self._draw, None, self._charts, **QUIET)
        for button, names, order, done in (
            (pause, self._model, operations.pause, "Model {} is paused."),
            (resume, self._model, operations.resume, "Model {} goes on."),
            (drain, self._worker, operations.drain, "Worker {} ends when its jobs have."),
        ):
            button.click(self._order(order, done), names, self._line, preprocess=False, **QUIET)

    def _show(self, model: str | None, worker: str | None, request: gr.Request) -> Outputs:
        """Give login, tables, the row of orders with its two lists, and the line of errors."""
        may = self._operations.is_operator(request.cookies.get(COOKIE))
        login = fleet_table.login(possible=self._operations.may_log_in, done=may)
        try:
            fleet = self._operations.fleet()
        except HeliographError as failure:
            return (login, *(gr.skip(),) * 4, wording.error(failure.body))
        return (
            login,
            fleet_table.tables(fleet, for_operator=may),
            gr.update(visible=may),
            _choose(model, [info.name for info in fleet.models]),
            _choose(worker, _live(fleet)),
            gr.skip(),
        )

    def _draw(self) -> Outputs:
        """Give the charts."""
        try:
            hours = {
                info.name: self._operations.last_hour(info.name)
                for info in self._operations.fleet().models
            }
        except HeliographError:
            return (gr.skip(),) * len(_CHARTS)  # the tables say why
        now_s = max((points[-1].at_s for points in hours.values()), default=0.0)
        span = [now_s - SPAN_S, now_s]
        return tuple(gr.update(value=_frame(hours, read), x_lim=span) for _, _, read in _CHARTS)

    def _order(
        self, order: Callable[[str | None, str], bool], done: str
    ) -> Callable[[str | None, gr.Request], str]:
        """Make the event of an order. It gives the line."""

        def give(name: str | None, request: gr.Request) -> str:
            if not name:
                return wording.note("Choose one first.")
            try:
                is_done = order(request.cookies.get(COOKIE), name)
            except HeliographError as failure:
                return wording.error(failure.body)
            log.info("order from the fleet page: %s", done.format(name))
            return wording.note(done.format(name) if is_done else f"Nothing to do for {name}.")

        return give


def _choose(chosen: str | None, names: list[str]) -> Any:
    value = chosen if chosen in names else next(iter(names), None)
    return gr.update(choices=names, value=value)


def _live(fleet: FleetView) -> list[str]:
    return [view.info.id for view in fleet.workers if view.info.state != "failed"]


def _frame(hours: dict[str, list[Point]], read: Callable[[Point], float | None]) -> pd.DataFrame:
    """One row for each point; where nothing is known there is none."""
    rows = [
        (pd.Timestamp(point.at_s, unit="s", tz="UTC"), name, value)
        for name, points in hours.items()
        for point in points
        if (value := read(point)) is not None
    ]
    return pd.DataFrame(rows, columns=["time", "model", "value"])
