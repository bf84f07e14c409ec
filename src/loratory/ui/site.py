"""The page as a web application: Gradio's part, the reports, and the server that they run on."""

import logging
import os
import socket
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loratory.errors import LoratoryError, MissingExtraError
from loratory.infer.server.limits import ServerLimits
from loratory.infer.server.process import is_loopback, server_config
from loratory.report import report_page
from loratory.ui.door import Door
from loratory.ui.laboratory import Laboratory

if TYPE_CHECKING:
    from fastapi import FastAPI

# A report is shown as if it came from nowhere: it can run its own script and reach nothing of the page.
REPORT_POLICY = "sandbox allow-scripts; default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def make_site(laboratory: Laboratory) -> "FastAPI":
    """The application without its door.

    Raises:
        MissingExtraError: Gradio is not installed.
    """
    _keep_quiet()
    try:
        import gradio as gr
        from fastapi import FastAPI
    except ImportError as error:
        raise MissingExtraError("the page", "ui") from error
    from loratory.ui.page import make_page, page_head, page_theme

    site = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    _add_reports(site, laboratory)
    found: FastAPI = gr.mount_gradio_app(
        site,
        make_page(laboratory),
        path="",
        theme=page_theme(),
        head=page_head(),
        allowed_paths=[],
        footer_links=[],
        run_history=False,
        show_error=True,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        max_file_size=1,
    )
    return found


def guarded_site(
    folder: Path, *, key: str, host: str, port: int, allowed_hosts: Collection[str] = ()
) -> tuple[Door, Laboratory]:
    """The page over a folder, behind its door, and what it stands on.

    Args:
        folder: Folder of run directories.
        key: What a browser must show.
        host: Address that the server listens on.
        port: Its port.
        allowed_hosts: Further names that requests may give as their host.

    Raises:
        MissingExtraError: Gradio is not installed.
    """
    laboratory = Laboratory(folder)
    app: Any = make_site(laboratory)
    hosts = {host, *allowed_hosts, *(["localhost"] if is_loopback(host) else [])}
    return Door(app, key=key, port=port, hosts=hosts, is_local=is_loopback(host)), laboratory


def serve_site(door: Door, listener: socket.socket) -> None:
    """Serve until SIGTERM or SIGINT. Training goes on."""
    import uvicorn

    class Server(uvicorn.Server):
        """Ends by returning, whichever signal asked for it."""

        def handle_exit(self, sig: int, frame: Any) -> None:
            self.force_exit = self.should_exit
            self.should_exit = True

    logging.getLogger("uvicorn").setLevel(logging.CRITICAL)
    Server(server_config(door, ServerLimits())).run(sockets=[listener])


def _add_reports(site: "FastAPI", laboratory: Laboratory) -> None:
    from fastapi import Query
    from fastapi.responses import HTMLResponse, PlainTextResponse, Response

    @site.get("/report", response_model=None)
    def report(run: list[str] = Query(max_length=200)) -> Response:
        try:
            text = report_page([laboratory.runs.path(name) for name in run])
        except LoratoryError as error:
            return PlainTextResponse(str(error), 404)
        return HTMLResponse(text, headers={"content-security-policy": REPORT_POLICY})


def _keep_quiet() -> None:
    """Gradio asks these when it is imported: no word to anybody about what is done here."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
