"""Who is let in: keys on every route, hosts, origins, sizes, times, and what a broken client meets. Raw sockets."""

import json
import socket
import time
from contextlib import suppress

import pytest

from small_server import KEY, Running

SECRET = f"Authorization: Bearer {KEY}"
JSON = "Content-Type: application/json"
ASK = json.dumps({"model": "red", "prompt": "x", "max_tokens": 2})


def exchange(port: int, data: bytes, *, wait_s: float = 5.0) -> bytes:
    """Send bytes; all that comes back until the server closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=wait_s) as connection:
        found = b""
        with suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(data)
        with suppress(ConnectionResetError):
            while piece := connection.recv(65536):
                found += piece
        return found


def request(
    port: int, method: str, path: str, *headers: str, body: str = "", host: str | None = "127.0.0.1"
) -> tuple[int, dict[str, str], dict[str, object]]:
    """Status, headers and JSON of a plain request on a connection of its own."""
    lines = [f"{method} {path} HTTP/1.1", "Connection: close", *headers]
    lines += [] if host is None else [f"Host: {host}"]
    lines += [f"Content-Length: {len(body.encode())}"] if body else []
    answer = exchange(port, ("\r\n".join(lines) + "\r\n\r\n" + body).encode())
    head, _, content = answer.partition(b"\r\n\r\n")
    first, *rest = head.decode().split("\r\n")
    found = dict(line.lower().split(": ", 1) for line in rest)
    return int(first.split()[1]), found, json.loads(content) if content else {}


def test_every_route_wants_the_key(server: Running) -> None:
    status, _, document = request(server.port, "GET", "/openapi.json", SECRET)
    assert status == 200
    paths = document["paths"]
    assert isinstance(paths, dict)
    assert {"/healthz", "/v1/models", "/v1/chat/completions", "/v1/completions"} <= set(paths)
    walked = [(method.upper(), path.replace("{model}", "red")) for path, item in paths.items() for method in item]
    walked += [("GET", "/openapi.json"), ("GET", "/docs"), ("GET", "/nothing"), ("OPTIONS", "/v1/completions")]
    for method, path in walked:
        for header in ("X-None: 1", "Authorization: Bearer sk-wrong", f"Authorization: Basic {KEY}", f"{SECRET}x"):
            status, headers, content = request(server.port, method, path, header, JSON, body=ASK)
            assert status == (200 if path == "/healthz" else 401), (method, path, header)
            assert "access-control-allow-origin" not in headers
            assert path == "/healthz" or set(content["error"]) == {"message", "type", "param", "code"}  # type: ignore[call-overload]
    assert request(server.port, "POST", "/v1/completions", SECRET, JSON, body=ASK)[0] == 200


def test_a_key_beyond_ascii_or_of_any_length_is_only_wrong(server: Running) -> None:
    for key in ("\xff" * 50, "k" * 5000, ""):
        assert request(server.port, "GET", "/v1/models", f"Authorization: Bearer {key}")[0] == 401


@pytest.mark.parametrize(
    ("headers", "host", "status"),
    [
        ((), "127.0.0.1", 200),
        ((), "localhost:8000", 200),
        ((), "[::1]:8000", 200),
        ((), "evil.example", 403),
        ((), "127.0.0.1.evil.example", 403),
        ((), "10.0.0.1", 403),
        ((), "localhost@evil.example", 403),
        (("Origin: http://127.0.0.1",), "127.0.0.1", 200),
        (("Origin: http://evil.example",), "127.0.0.1", 403),
        (("Origin: null",), "127.0.0.1", 403),
        (("Sec-Fetch-Site: cross-site",), "127.0.0.1", 403),
        (("Sec-Fetch-Site: same-origin",), "127.0.0.1", 200),
        (("Host: evil.example",), "127.0.0.1", 400),
    ],
)
def test_other_hosts_and_origins_are_shut_out(
    server: Running, headers: tuple[str, ...], host: str, status: int
) -> None:
    assert request(server.port, "GET", "/v1/models", SECRET, *headers, host=host)[0] == status


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"])
def test_bodies_are_json_or_refused(server: Running, kind: str) -> None:
    assert request(server.port, "POST", "/v1/completions", SECRET, f"Content-Type: {kind}", body=ASK)[0] == 415


@pytest.mark.parametrize(
    "body",
    [
        "{",
        "[]",
        "null",
        '"x"',
        "[" * 100_000,
        '{"a":' * 50_000,
        '{"model": "red", "prompt": "\\ud800"}',
        '{"model": "red", "prompt": "x", "temperature": NaN}',
        '{"model": "red", "prompt": "x", "temperature": 1e308}',
        '{"model": "red", "prompt": "x", "max_tokens": 1e400}',
        '{"model": "red", "prompt": "x", "max_tokens": 1000000000000}',
        '{"model": "red", "prompt": "x", "n": 1000000000}',
        '{"model": "red", "prompt": []}',
        '{"model": "red", "prompt": ""}',
        '{"model": "red", "prompt": [99999999]}',
        '{"model": "red", "prompt": [[1], "x"]}',
        '{"model": "red", "prompt": "x", "stop": ""}',
        '{"model": 7, "prompt": "x"}',
        '{"model": "red", "prompt": "' + "x " * 20_000 + '"}',
    ],
)
def test_hostile_bodies_are_bad_requests(server: Running, body: str) -> None:
    start_s = time.monotonic()
    status, _, content = request(server.port, "POST", "/v1/completions", SECRET, JSON, body=body)
    assert status == 400
    assert "Traceback" not in json.dumps(content)
    assert isinstance(content["error"], dict)
    assert time.monotonic() - start_s < 3


def test_bodies_above_the_limit_are_not_read(server: Running) -> None:
    head = f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\n{SECRET}\r\n{JSON}\r\n"
    assert exchange(server.port, f"{head}Content-Length: 10000000000\r\n\r\n".encode()).startswith(b"HTTP/1.1 413")
    chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    assert b" 413 " in exchange(server.port, f"{head}Transfer-Encoding: chunked\r\n\r\n".encode() + chunk * 40)


def test_headers_are_bounded(server: Running) -> None:
    many = [f"X-{number}: 1" for number in range(200)]
    assert request(server.port, "GET", "/v1/models", SECRET, *many)[0] == 431
    assert exchange(server.port, b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"x" * 100_000).startswith(
        b"HTTP/1.1 400"
    )


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 no TLS here\r\n\r\n",
        b"GET / HTTQ/1.1\r\n\r\n",
        b"GET  HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX\x00: 1\r\n\r\n",
    ],
)  # fmt: skip
def test_what_is_no_http_is_told_so(server: Running, data: bytes) -> None:
    answer = exchange(server.port, data)
    assert answer.split()[1] in (b"400", b"501")
    assert b'"error"' in answer


def test_who_brings_a_request_too_slowly_is_let_go(server: Running) -> None:
    head = f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\n{SECRET}\r\n{JSON}\r\nContent-Length: 50\r\n"
    for data, answer in (("", b""), ("GET / HT", b""), (head, b""), (f"{head}\r\n{{", b"HTTP/1.1 408")):
        with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
            connection.sendall(data.encode())
            start_s = time.monotonic()
            found = b""
            # Bytes that drip in do not buy time.
            connection.settimeout(0.2)
            while time.monotonic() - start_s < 4:
                try:
                    piece = connection.recv(4096)
                    if not piece:
                        break
                    found += piece
                except TimeoutError:
                    if data and not answer:
                        connection.sendall(b"x")
                except ConnectionResetError:
                    break
            assert time.monotonic() - start_s < 3.5, data
            assert found.startswith(answer)


def test_a_request_in_small_pieces_is_answered(server: Running) -> None:
    text = f"GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1\r\n{SECRET}\r\nConnection: close\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
        for place in range(0, len(text), 40):
            connection.sendall(text[place : place + 40])
            time.sleep(0.01)
        assert connection.recv(100).startswith(b"HTTP/1.1 200")
