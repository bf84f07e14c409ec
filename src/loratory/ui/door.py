"""What stands before the page: host, origin, key, and a list of the routes that the page needs.

A browser shows the key once, in the address that the command printed, and gets a cookie for it. Gradio brings many more
routes than this page uses (uploads, proxies, files, editors of its own); they are not reached at all.
"""

import hashlib
from collections.abc import Collection, Mapping
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs

from loratory.infer.server.asgi import App, HttpOnly, Receive, Scope, Send, send_refusal
from loratory.infer.server.doorway import Doorway
from loratory.infer.server.key import ApiKey
from loratory.infer.server.refusal import RefusalError

ROUTES = frozenset(
    {
        "/",
        "/report",
        "/config",
        "/theme.css",
        "/favicon.ico",
        "/manifest.json",
        "/gradio_api/info",
        "/gradio_api/startup-events",
        "/gradio_api/theme.css",
        "/gradio_api/queue/join",
        "/gradio_api/queue/data",
        "/gradio_api/reset",
        "/gradio_api/cancel",
    }
)
FOLDERS = ("/assets/", "/static/", "/svelte/", "/gradio_api/heartbeat/")
MAX_BODY_BYTES = 2 << 20
_HEADERS = {
    # Nothing is fetched from elsewhere; Gradio's own page needs inline scripts, and its event handlers are text.
    "content-security-policy": "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; "
    "worker-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}


class Door(HttpOnly):
    """An ASGI application around the page.

    Args:
        app: The page.
        key: What is to be shown.
        port: The page's port; several pages on one machine share a browser's cookies.
        hosts: Names that the page is reached under.
        is_local: Whether it listens to its own machine only.
    """

    def __init__(self, app: App, *, key: str, port: int, hosts: Collection[str], is_local: bool) -> None:
        super().__init__(app)
        self._key = ApiKey(key)
        token = hashlib.sha256(f"cookie of {key}".encode()).hexdigest()
        self._cookie = ApiKey(token)
        self._name = f"loratory-{port}"
        self._set_cookie = f"{self._name}={token}; Path=/; HttpOnly; SameSite=Strict"
        self._doorway = Doorway(hosts, is_local=is_local)

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        guarded = _with_headers(send, may_be_kept=scope["path"].startswith(FOLDERS))
        try:
            is_entering = self._check(scope)
        except RefusalError as refusal:
            await send_refusal(refusal, guarded)
            return
        if is_entering:
            headers = [(b"location", b"/"), (b"set-cookie", self._set_cookie.encode()), (b"content-length", b"0")]
            await guarded({"type": "http.response.start", "status": 303, "headers": headers})
            await guarded({"type": "http.response.body", "body": b""})
            return
        await self._app(scope, receive, guarded)

    def _check(self, scope: Scope) -> bool:
        """Refuse what may not come in; whether this request brings the key in its address."""
        headers = dict(scope["headers"])
        self._doorway.check(headers)
        shown = parse_qs(scope["query_string"].decode("latin-1")).get("key", [])
        if scope["path"] == "/" and scope["method"] == "GET" and shown and self._key.is_equal(shown[0].encode()):
            return True
        if not self._is_known(scope):
            raise RefusalError(
                401, "open the address that `loratory ui` printed; it holds the key", code="invalid_api_key"
            )
        path = scope["path"]
        if path not in ROUTES and not path.startswith(FOLDERS):
            raise RefusalError(404, "the page has no such route")
        if scope["method"] not in ("GET", "HEAD"):
            self._check_change(headers)
        return False

    def _check_change(self, headers: Mapping[bytes, bytes]) -> None:
        if b"origin" not in headers:
            raise RefusalError(403, "requests that change something must say where they come from")
        length = headers.get(b"content-length", b"")
        if not length.isdigit() or len(length) > 15 or int(length) > MAX_BODY_BYTES:
            message = f"the body must say its length, at most {MAX_BODY_BYTES} bytes"
            raise RefusalError(413, message, headers={"connection": "close"})

    def _is_known(self, scope: Scope) -> bool:
        for name, value in scope["headers"]:
            if name != b"cookie":
                continue
            try:
                found = SimpleCookie(value.decode("latin-1")).get(self._name)
            except CookieError:
                continue
            if found is not None and self._cookie.is_equal(found.value.encode()):
                return True
        return False


def _with_headers(send: Send, *, may_be_kept: bool) -> Send:
    added = {**_HEADERS, **({} if may_be_kept else {"cache-control": "no-store"})}
    raw = [(name.encode(), value.encode()) for name, value in added.items()]

    async def sending(message: Scope) -> None:
        if message["type"] == "http.response.start":
            own = message.get("headers", [])
            names = {name.lower() for name, _ in own}
            # A part of the page may be stricter than this.
            message = {**message, "headers": [*own, *((name, value) for name, value in raw if name not in names)]}
        await send(message)

    return sending
