"""What stands before every route: key, host, origin, size and time. Whatever is not let in here reaches nothing."""

import asyncio
from collections.abc import Collection, MutableMapping
from typing import Any

from loratory.infer.server.asgi import App, HttpOnly, Receive, Scope, Send, send_refusal
from loratory.infer.server.doorway import Doorway
from loratory.infer.server.key import ApiKey
from loratory.infer.server.limits import ServerLimits
from loratory.infer.server.refusal import RefusalError

OPEN_PATHS = frozenset({"/healthz"})
"""Routes without a key: they tell that the server is there, and nothing else."""


class Drain:
    """Whether the server still takes requests, and how many are under way."""

    def __init__(self) -> None:
        self.is_closing = False
        self.num_requests = 0


class Guard(HttpOnly):
    """An ASGI application around another.

    Args:
        app: What is guarded.
        key: The key to be shown.
        hosts: Names that requests may give as their host; addresses of this machine are allowed when it listens to
            more than itself.
        is_local: Whether the server listens to its own machine only.
        limits: Sizes and times.
        drain: Counts requests; closes the door.
    """

    def __init__(
        self,
        app: App,
        *,
        key: ApiKey,
        hosts: Collection[str],
        is_local: bool,
        limits: ServerLimits,
        drain: Drain,
    ) -> None:
        super().__init__(app)
        self._key = key
        self._doorway = Doorway(hosts, is_local=is_local)
        self._limits = limits
        self._drain = drain

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._drain.num_requests += 1
        timed = self._timed(send)
        try:
            self._check(scope)
            body = await self._body(scope, receive)
            await self._app(scope, _replayed(body, receive), timed)
        except RefusalError as refusal:
            await send_refusal(refusal, timed)
        except TimeoutError:
            # The client does not take what it asked for; the connection ends with the task.
            return
        finally:
            self._drain.num_requests -= 1

    def _check(self, scope: Scope) -> None:
        headers: dict[bytes, bytes] = {}
        if len(scope["headers"]) > self._limits.max_headers:
            raise RefusalError(431, f"too many headers; at most {self._limits.max_headers}")
        for name, value in scope["headers"]:
            if name in headers and name in (b"host", b"authorization", b"content-type", b"origin"):
                raise RefusalError(400, f"header {name.decode('latin-1')} is given twice")
            headers[name] = value
        self._doorway.check(headers)
        if scope["path"] in OPEN_PATHS:
            return
        if not self._key.is_shown_by(headers.get(b"authorization", b"")):
            raise RefusalError(
                401,
                "no valid key: send the header 'Authorization: Bearer KEY'",
                code="invalid_api_key",
                headers={"www-authenticate": "Bearer"},
            )
        if self._drain.is_closing:
            raise RefusalError(503, "the server is shutting down", headers={"retry-after": "5", "connection": "close"})
        if scope["method"] == "POST":
            kind = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
            if kind != b"application/json":
                raise RefusalError(415, "the body must be JSON with 'Content-Type: application/json'")

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        too_large = RefusalError(
            413, f"the body is larger than {self._limits.max_body_bytes} bytes", headers={"connection": "close"}
        )
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if len(declared) > 15 or int(declared) > self._limits.max_body_bytes:
            raise too_large
        body = bytearray()
        try:
            async with asyncio.timeout(self._limits.body_s):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise RefusalError(400, "the client left")
                    body += message.get("body", b"")
                    if len(body) > self._limits.max_body_bytes:
                        raise too_large
                    if not message.get("more_body", False):
                        return bytes(body)
        except TimeoutError:
            raise RefusalError(408, "the body did not arrive in time", headers={"connection": "close"}) from None

    def _timed(self, send: Send) -> Send:
        async def timed(message: MutableMapping[str, Any]) -> None:
            async with asyncio.timeout(self._limits.send_s):
                await send(message)

        return timed


def _replayed(body: bytes, receive: Receive) -> Receive:
    is_read = False

    async def replay() -> MutableMapping[str, Any]:
        nonlocal is_read
        if is_read:
            return await receive()
        is_read = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay
