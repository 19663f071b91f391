"""The page on the network: headers that keep it to itself, and a server that ends when it is told to."""

from __future__ import annotations

import os
import signal
import socket
import sys
import tempfile
from typing import Any

from .plant import Plant, Setup, find_samples

# A browser asks nobody but this page, whatever a release of Gradio would like to load.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "media-src 'self' blob:; font-src 'self' data:; connect-src 'self' blob: data:; worker-src 'self' blob:; frame-ancestors 'self'; "
    "base-uri 'self'; form-action 'self'; object-src 'none'"
)
HEADERS = [
    (b"content-security-policy", POLICY.encode()), (b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer"),
]  # fmt: skip
LARGEST = "64mb"  # the contract's own limit of a picture


class Headers:
    """Plain ASGI, so that streams pass unbuffered."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def add(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *HEADERS]
            await send(message)

        await self.app(scope, receive, add)


def made(setup: Setup) -> Any:
    """The ASGI application. Gradio reads these variables when it is imported."""
    os.environ.update(GRADIO_ANALYTICS_ENABLED="False", GRADIO_RUN_HISTORY="False", HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1")
    import gradio
    from fastapi import FastAPI

    from .drag import SCRIPT
    from .page import build
    from .theme import CSS, theme

    samples = find_samples(setup.samples) if setup.samples else ()
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(Headers)
    return gradio.mount_gradio_app(
        app, build(Plant(setup, samples)), path="/", server_name=setup.host, server_port=setup.port, footer_links=[], run_history=False,
        show_error=True, max_file_size=LARGEST, ssr_mode=False, theme=theme(gradio.themes), css=CSS, js=SCRIPT, mcp_server=False,
        enable_monitoring=False,
    )  # fmt: skip


def serve(setup: Setup) -> None:
    """Until Ctrl-C or SIGTERM. Pictures that users give lie in a folder of their own and go with the page."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # uvicorn sends itself the signal again when it has ended
    family = socket.AF_INET6 if ":" in setup.host else socket.AF_INET
    with (
        socket.create_server((setup.host, setup.port), family=family) as listening,  # before all else: a port may be taken
        tempfile.TemporaryDirectory(prefix="sightline-web-") as folder,
    ):
        os.environ["GRADIO_TEMP_DIR"] = folder
        app = made(setup)
        import uvicorn

        host = f"[{setup.host}]" if ":" in setup.host else setup.host
        print(f"sightline web: http://{host}:{listening.getsockname()[1]}  (server {setup.url}; Ctrl-C stops it)", flush=True)
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=3)
        uvicorn.Server(config).run(sockets=[listening])
