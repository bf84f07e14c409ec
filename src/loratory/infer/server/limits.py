"""What one client may ask of the server, so that none can take it from the others."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """Limits, all checked before or while work is done.

    Attributes:
        max_slots: Rows answered side by side.
        max_waiting: Rows that may wait for a slot; more are turned away with 429.
        max_context: Most tokens of prompt and answer together; None: the model's own.
        max_tokens: Longest answer that may be asked for.
        max_body_bytes: Size of a request's body.
        max_headers: Number of a request's headers.
        max_connections: Connections open at a time; further ones are closed at once.
        body_s: Time for a body to arrive.
        header_s: Time for a request's headers to arrive.
        request_s: Time for a whole answer.
        send_s: Time for a client to take a piece of an answer.
        drain_s: Time that requests under way have to finish after SIGTERM.
    """

    max_slots: int = 8
    max_waiting: int = 32
    max_context: int | None = None
    max_tokens: int = 4096
    max_body_bytes: int = 2 << 20
    max_headers: int = 100
    max_connections: int = 256
    body_s: float = 20.0
    header_s: float = 10.0
    request_s: float = 600.0
    send_s: float = 30.0
    drain_s: float = 30.0
