"""A small server of `loratory serve` on a real socket, in a thread of the test's process."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from loratory.config import ModelConfig
from loratory.infer.server.guard import Drain
from loratory.infer.server.limits import ServerLimits
from loratory.infer.server.process import guarded_app, open_socket, server_config
from loratory.infer.server.served import ServedSource, Service, open_service

KEY = "sk-key-of-the-tests"
LIMITS = ServerLimits(max_slots=4, max_waiting=8, max_tokens=128, header_s=1.0, body_s=1.0, request_s=30.0)


def open_small(base: Path, adapters: dict[str, Path], limits: ServerLimits = LIMITS) -> Service:
    """A service of a base and adapters, every name with the tokenizer's chat template."""
    sources = [ServedSource("base", None, "chat")]
    sources += [ServedSource(name, folder, "chat") for name, folder in adapters.items()]
    return open_service(ModelConfig(model_name_or_path=str(base)), sources, limits=limits)


@dataclass
class Running:
    """A server on a real socket."""

    port: int
    service: Service
    drain: Drain

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"


@contextmanager
def running(service: Service, limits: ServerLimits = LIMITS) -> Iterator[Running]:
    """Serve from a thread of this process."""
    drain = Drain()
    listener = open_socket("127.0.0.1", 0)
    app = guarded_app(service, key=KEY, host="127.0.0.1", allowed_hosts=(), limits=limits, drain=drain)
    server = uvicorn.Server(server_config(app, limits))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])))
    thread.start()
    try:
        yield Running(listener.getsockname()[1], service, drain)
    finally:
        server.should_exit = True
        thread.join()
