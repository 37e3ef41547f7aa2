"""What large libraries bring is loaded without the collector, which never looks through it."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import gc
from broker.loading import THRESHOLDS, uncollected

class Node: pass
before = gc.get_freeze_count()
try:
    with uncollected():
        assert not gc.isenabled()
        loaded = [Node() for _ in range(1000)]
        raise ImportError
except ImportError:
    pass
assert gc.isenabled() and gc.get_threshold() == THRESHOLDS
later = Node()
ids = set(map(id, gc.get_objects()))
assert id(later) in ids
assert not ids & set(map(id, loaded))
assert gc.get_freeze_count() >= before + 1000
"""


def test_the_collector_is_back_afterwards_and_leaves_what_was_loaded_alone() -> None:
    subprocess.run([sys.executable, "-c", PROGRAM], check=True)
