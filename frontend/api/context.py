"""What the routes of one application share, as `app.create_app` put it there."""

from __future__ import annotations

from flask import current_app

from frontend.api.answer import Answers
from frontend.service import Service


def current_service() -> Service:
    """The way in."""
    service: Service = current_app.extensions["heliograph.service"]
    return service


def current_answers() -> Answers:
    """What follows jobs for clients."""
    answers: Answers = current_app.extensions["heliograph.answers"]
    return answers
