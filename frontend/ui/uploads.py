"""Uploaded files on their way into the image store, byte for byte, and back."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

import gradio as gr
from gradio import processing_utils

from broker.errors import InvalidImage, RequestTooLarge
from frontend.picture_store import PictureStore
from frontend.pictures import kind_of

Upload = dict[str, Any]
"""An uploaded file as the browser names it, unopened; `path` is a claim, not a fact."""

_LONGEST_NAME = 60


def fetch_nothing() -> None:
    """Have Gradio refuse addresses that a browser sends as files; by itself it asks for them."""
    processing_utils.async_ssrf_protected_download = _refuse


async def _refuse(url: str, cache_dir: str) -> NoReturn:
    raise gr.Error("Addresses are not fetched: upload the picture itself.", print_exception=False)


class Uploads:
    """The folder into which Gradio puts what browsers upload."""

    def __init__(self, store: PictureStore, folder: Path) -> None:
        self._store = store
        self._folder = folder.resolve()

    def store(self, pictures: Iterable[Upload]) -> tuple[str, ...]:
        """Check pictures, store them and return the SHA-256 of each.

        Raises:
            InvalidImage: one is not a picture, or not one that was uploaded.
            RequestTooLarge: one is over the byte or pixel limit.
        """
        return tuple(map(self._add, pictures))

    def _add(self, picture: Upload) -> str:
        # Gradio checks paths that are marked as files, but the mark comes from the browser too.
        path = Path(str(picture.get("path"))).resolve()
        if not path.is_relative_to(self._folder) or not path.is_file():
            raise InvalidImage("The picture is not here any more: upload it again.")
        try:
            return self._store.add(path.read_bytes())
        except (InvalidImage, RequestTooLarge) as error:
            name = str(picture.get("orig_name") or path.name)[:_LONGEST_NAME]
            raise type(error)(f"{name}: {error.message}") from None

    def give_back(self, sha256: str) -> Upload:
        """Lay a stored picture into the folder, as if it had been uploaded again.

        Raises:
            InvalidImage: it is not stored any more.
        """
        data = self._store.read(sha256)
        kind = kind_of(data)
        path = self._folder / sha256 / f"picture.{kind.partition('/')[2]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return {
            "path": str(path),
            "orig_name": path.name,
            "size": len(data),
            "mime_type": kind,
            "meta": {"_type": "gradio.FileData"},
        }
