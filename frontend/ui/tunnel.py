"""A public address at gradio.live for the chat page, by Gradio's own tunnel."""

from __future__ import annotations

import logging
import secrets

import gradio as gr
from gradio import networking

log = logging.getLogger(__name__)


def share(demo: gr.Blocks) -> None:
    """Open a tunnel to a page that is served already, and log its address or that there is none.

    `launch(share=True)` would have every visitor's browser load the page's code from another host.
    """
    try:
        url = networking.setup_tunnel(
            local_host=demo.server_name,
            local_port=demo.server_port,
            share_token=secrets.token_urlsafe(32),
            share_server_address=None,  # the environment's, else Gradio's
            share_server_tls_certificate=None,
        )
    except Exception as failure:
        log.error(
            "there is no public address: gradio.live cannot be reached, or its program cannot be "
            "fetched. The page is served on this machine all the same. (%s)",
            failure,
        )
    else:
        log.warning("whoever knows https://%s can use the chat page", url.rpartition("://")[2])
