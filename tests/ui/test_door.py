"""The page's door, on the real application over a real socket: key, host, origin, and every route that Gradio has."""

import asyncio
import http.client
import json
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from forged_runs import forge_run
from loratory.infer.server.limits import ServerLimits
from loratory.infer.server.process import open_socket, server_config
from loratory.ui.door import FOLDERS, ROUTES
from loratory.ui.site import guarded_site

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
KEY = "sk-key-of-the-tests"


@dataclass
class Site:
    """A page that runs in a thread."""

    port: int
    door: Any
    folder: Path

    def ask(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, body: bytes | None = None
    ) -> tuple[int, Mapping[str, str], bytes]:
        """One request, as raw as headers allow."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            connection.request(method, path, body=body, headers=dict(headers or {}))
            reply = connection.getresponse()
            return reply.status, {k.lower(): v for k, v in reply.getheaders()}, reply.read()
        finally:
            connection.close()

    @property
    def cookie(self) -> dict[str, str]:
        """What a browser that showed the key sends."""
        status, headers, _ = self.ask("GET", f"/?key={KEY}")
        assert status == 303
        assert headers["location"] == "/"
        return {"cookie": headers["set-cookie"].partition(";")[0]}

    @property
    def origin(self) -> dict[str, str]:
        """The page's own."""
        return {"origin": f"http://127.0.0.1:{self.port}"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A page over a folder with one run."""
    folder = tmp_path_factory.mktemp("page") / "runs"
    forge_run(folder / "run", ["a", "b"], ["a", "b"])
    forge_run(folder.parent / "outside", ["a", "b"], ["a", "b"])
    listener = open_socket("127.0.0.1", 0)
    port = listener.getsockname()[1]
    door, _ = guarded_site(folder, key=KEY, host="127.0.0.1", port=port)
    server = uvicorn.Server(server_config(door, ServerLimits()))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])))
    thread.start()
    yield Site(port, door, folder)
    server.should_exit = True
    thread.join()


def all_routes(routes: Any) -> Iterator[tuple[str, frozenset[str]]]:
    """Path and methods of every route of an application and of those mounted in it."""
    for route in routes:
        inside = getattr(getattr(route, "app", None), "routes", None)
        if inside is not None and getattr(route, "methods", None) is None:
            yield from all_routes(inside)
        elif hasattr(route, "effective_candidates"):
            yield from all_routes(route.effective_candidates())
        else:
            yield route.path, frozenset(route.methods or ())


def filled(path: str) -> str:
    """A route's path with something in the place of its parameters."""
    while "{" in path:
        before, _, rest = path.partition("{")
        path = f"{before}x{rest.partition('}')[2]}"
    return path


def test_every_route_wants_the_key(site: Site) -> None:
    routes = sorted(
        {(filled(path), method) for path, methods in all_routes(site.door._app.routes) for method in methods}
    )
    assert {("/", "GET"), ("/report", "GET"), ("/gradio_api/queue/join", "POST"), ("/gradio_api/upload", "POST"),
            ("/gradio_api/file=x", "GET"), ("/gradio_api/vibe-edit", "POST")} <= set(routes)  # fmt: skip
    assert len(routes) > 50
    wrong = {"cookie": f"loratory-{site.port}={'0' * 64}"}
    for path, method in routes:
        for headers in ({}, wrong, {"authorization": f"Bearer {KEY}"}):
            status, _, body = site.ask(method, path, {**headers, **site.origin}, b"{}" if method == "POST" else None)
            assert status == 401, (method, path)
            assert method == "HEAD" or json.loads(body)["error"]["code"] == "invalid_api_key"


def test_routes_that_the_page_does_not_need_are_not_there_even_with_the_key(site: Site) -> None:
    cookie = site.cookie
    others = {
        (filled(path), method)
        for path, methods in all_routes(site.door._app.routes)
        for method in methods
        if filled(path) not in ROUTES and not filled(path).startswith(FOLDERS)
    }
    assert {path for path, _ in others} >= {
        "/gradio_api/upload",
        "/gradio_api/file=x",
        "/gradio_api/proxy=x",
        "/monitoring",
    }
    for path, method in sorted(others):
        status, _, _ = site.ask(method, path, {**cookie, **site.origin}, b"{}" if method == "POST" else None)
        assert status == 404, (method, path)
    for path in ("/gradio_api/file=/etc/passwd", "/gradio_api/file%3D/etc/passwd", "//gradio_api/upload", "/nothing"):
        assert site.ask("GET", path, cookie)[0] == 404
    for path in ("/assets/../../../../etc/passwd", "/static/%2e%2e/%2e%2e/%2e%2e/etc/passwd", "/assets//etc/passwd"):
        status, _, body = site.ask("GET", path, cookie)
        assert status >= 400
        assert b"root:" not in body


def test_a_wrong_key_in_the_address_opens_nothing(site: Site) -> None:
    for path in ("/?key=", "/?key=wrong", f"/?key={KEY}x", f"/config?key={KEY}", f"/report?run=run&key={KEY}"):
        status, headers, _ = site.ask("GET", path)
        assert status == 401, path
        assert "set-cookie" not in headers
    assert site.ask("POST", f"/?key={KEY}", site.origin, b"{}")[0] == 401


def test_the_cookie_is_for_this_page_alone_and_does_not_hold_the_key(site: Site) -> None:
    _, headers, _ = site.ask("GET", f"/?key={KEY}")
    cookie = headers["set-cookie"]
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= {part.strip() for part in cookie.split(";")}
    assert KEY not in cookie
    assert cookie.startswith(f"loratory-{site.port}=")


def test_the_page_comes_with_a_policy_that_fetches_nothing_from_elsewhere(site: Site) -> None:
    status, headers, body = site.ask("GET", "/", site.cookie)
    assert status == 200
    policy = headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "http" not in policy
    assert headers["cache-control"] == "no-store"
    assert b"fonts.googleapis" not in body
    assert "access-control-allow-origin" not in headers


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example"},
        {"host": "127.0.0.1.evil.example"},
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://localhost:1"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
def test_no_other_site_speaks_to_the_page(site: Site, headers: dict[str, str]) -> None:
    for method, path in (("GET", "/"), ("GET", f"/?key={KEY}"), ("GET", "/config"), ("POST", "/gradio_api/queue/join")):
        body = b"{}" if method == "POST" else None
        assert site.ask(method, path, {**site.cookie, **headers}, body)[0] == 403


def test_what_changes_something_says_where_it_comes_from_and_how_long_it_is(site: Site) -> None:
    cookie = site.cookie
    assert site.ask("POST", "/gradio_api/queue/join", cookie, b"{}")[0] == 403
    status, _, _ = site.ask("POST", "/gradio_api/queue/join", {**cookie, **site.origin}, b"{}")
    assert status == 422  # Gradio's own answer
    large = {**cookie, **site.origin, "content-length": str(3 << 20)}
    assert site.ask("POST", "/gradio_api/queue/join", large, b"{}")[0] == 413


def test_reports_are_of_listed_runs_and_reach_nothing_of_the_page(site: Site) -> None:
    status, headers, body = site.ask("GET", "/report?run=run", site.cookie)
    assert status == 200
    assert headers["content-security-policy"].startswith("sandbox allow-scripts; default-src 'none'")
    assert b"<h1>Run run</h1>" in body
    for name in ("../outside", "%2e%2e/outside", "nothing", "", "/etc"):
        status, headers, body = site.ask("GET", f"/report?run={name}", site.cookie)
        assert status == 404
        assert headers["content-type"].startswith("text/plain")
        assert str(site.folder.parent / "outside").encode() not in body
    assert site.ask("GET", "/report", site.cookie)[0] == 422
