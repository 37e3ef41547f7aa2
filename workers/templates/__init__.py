"""Conversation templates for checkpoints that bring none of their own.

`table` has them by name, `rules` chooses one by a model's name, and the Jinja files are how they
are written. A checkpoint's own chat template comes before all of them (`workers.engines`).
"""

from workers.templates.rules import choose
from workers.templates.table import TEMPLATES, named
from workers.templates.template import DEFAULT_MARK, Template, Turn

__all__ = ["DEFAULT_MARK", "TEMPLATES", "Template", "Turn", "choose", "named"]
