"""Uploaded files on their way into the image store, byte for byte."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from broker.errors import InvalidImage
from frontend.service import Service

Upload = dict[str, Any]
"""An uploaded file as the browser names it, unopened; `path` is a claim, not a fact."""


class Uploads:
    """The folder into which Gradio puts what browsers upload."""

    def __init__(self, service: Service, folder: Path) -> None:
        self._service = service
        self._folder = folder.resolve()

    def store(self, picture: Upload) -> str:
        """Check a picture, store it and return its SHA-256.

        Raises:
            InvalidImage: not a picture, or not one that was uploaded.
            RequestTooLarge: over the byte or pixel limit.
        """
        # Gradio checks paths that are marked as files, but the mark comes from the browser too.
        path = Path(str(picture.get("path"))).resolve()
        if not path.is_relative_to(self._folder) or not path.is_file():
            raise InvalidImage("The picture is not here any more: upload it again.")
        return self._service.store_image(path.read_bytes())
