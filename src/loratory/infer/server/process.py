"""The server's process: a socket, uvicorn on it, and an orderly end on SIGTERM."""

import asyncio
import ipaddress
import json
import logging
import socket
import time
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from loratory.errors import ConfigError, MissingExtraError, ResourceError
from loratory.infer.server.app import make_app
from loratory.infer.server.asgi import App
from loratory.infer.server.guard import Drain, Guard
from loratory.infer.server.key import ApiKey
from loratory.infer.server.limits import ServerLimits
from loratory.infer.server.replies import fault
from loratory.infer.server.served import Service

if TYPE_CHECKING:
    import uvicorn

logger = logging.getLogger(__name__)

_MAX_HEADER_BYTES = 16 << 10
_KEEP_ALIVE_S = 5


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens there."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def open_socket(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one.

    Raises:
        ConfigError: The address is not this machine's.
        ResourceError: The port is taken.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=256)
    except socket.gaierror as error:
        raise ConfigError(f"--host {host}: no address of this machine ({error.strerror})") from error
    except OSError as error:
        raise ResourceError(f"cannot listen on {host}:{port} ({error.strerror}); choose another --port") from error


def guarded_app(
    service: Service, *, key: str, host: str, allowed_hosts: Collection[str], limits: ServerLimits, drain: Drain
) -> Guard:
    """The application behind its guard."""
    app: Any = make_app(service, limits=limits, drain=drain)
    return Guard(
        app,
        key=ApiKey(key),
        hosts={host, *allowed_hosts, *(["localhost"] if is_loopback(host) else [])},
        is_local=is_loopback(host),
        limits=limits,
        drain=drain,
    )


def run_server(app: Guard, listener: socket.socket, *, limits: ServerLimits, drain: Drain) -> bool:
    """Serve until SIGTERM or SIGINT; then requests under way finish and new ones are refused. A second signal ends all.

    Returns:
        Whether all requests under way could finish.

    Raises:
        MissingExtraError: uvicorn is not installed.
    """
    try:
        import uvicorn
    except ImportError as error:
        raise MissingExtraError("serving", "serve") from error

    class DrainingServer(uvicorn.Server):
        """Keeps the door open for refusals while it drains."""

        closing_since_s = 0.0

        def handle_exit(self, sig: int, frame: Any) -> None:
            if drain.is_closing:
                self.should_exit = self.force_exit = True
            drain.is_closing = True
            self.closing_since_s = self.closing_since_s or time.monotonic()

        async def on_tick(self, counter: int) -> bool:
            if drain.is_closing:
                is_over = time.monotonic() - self.closing_since_s > limits.drain_s
                return self.should_exit or is_over or drain.num_requests == 0
            return await super().on_tick(counter)

    server = DrainingServer(server_config(app, limits))
    logging.getLogger("uvicorn").setLevel(logging.CRITICAL)
    asyncio.run(server.serve(sockets=[listener]))
    return drain.num_requests == 0


def server_config(app: App, limits: ServerLimits) -> "uvicorn.Config":
    """uvicorn's configuration: HTTP/1.1 alone, nothing logged about requests, nothing believed from proxies."""
    import uvicorn

    return uvicorn.Config(
        app,
        http=_protocol(limits),
        ws="none",
        loop="asyncio",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=1,
        h11_max_incomplete_event_size=_MAX_HEADER_BYTES,
    )


def _protocol(limits: ServerLimits) -> type[asyncio.Protocol]:
    """uvicorn's HTTP/1.1 protocol with a time limit for headers, which it lacks, and our form of errors."""
    import h11
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class PunctualProtocol(H11Protocol):
        """A connection that must bring its request in time."""

        _timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if len(self.connections) > limits.max_connections:
                transport.abort()
            self._watch()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            self._unwatch()

        def send_400_response(self, msg: str) -> None:
            body = json.dumps(fault(400, "not a valid HTTP/1.1 request")).encode()
            headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
            try:
                for event in (
                    h11.Response(status_code=400, headers=headers, reason=b"Bad Request"),
                    h11.Data(data=body),
                    h11.EndOfMessage(),
                ):
                    self.transport.write(self.conn.send(event) or b"")
            except h11.LocalProtocolError:
                logger.debug("a broken request came while another was being answered")
            self.transport.close()

        def _watch(self) -> None:
            """Start the clock while no request is being answered; bytes that drip in do not set it back."""
            if self.cycle is not None and not self.cycle.response_complete:
                self._unwatch()
            elif self._timer is None and not self.transport.is_closing():
                self._timer = self.loop.call_later(limits.header_s, self._close_late)

        def _unwatch(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _close_late(self) -> None:
            self._timer = None
            if self.cycle is None or self.cycle.response_complete:
                self.transport.close()

    return PunctualProtocol
