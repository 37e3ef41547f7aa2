"""Faults from outside, and what they do to answers that are under way."""

from typing import Final

FIGURES: Final = "figures"
"""Name of a test's property that is a line for the summary, from whatever process it ran in."""
