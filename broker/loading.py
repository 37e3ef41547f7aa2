"""Loading without Python's collector, which would look through all that large libraries bring."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

THRESHOLDS = (700, 10, 200)
"""By default the collector looks through all that a thousand streams hold so often that one gap in
a hundred is longer by 100 ms. Its young generations stay as they are: they free the bodies of
refused requests.
"""


@contextmanager
def uncollected() -> Iterator[None]:
    """Load within the context: the collector is off, and leaves alone for good all there is then.

    With torch and transformers that is 600,000 objects. To look through them took a quarter of the
    time of importing them, and 0.27 s each time later on, in which no answer went on. From then on
    it looks through everything a twentieth as often as it would.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.set_threshold(*THRESHOLDS)
        gc.enable()
