"""A request that is answered with an error."""

from collections.abc import Mapping


class RefusalError(Exception):
    """Ends a request with a status and OpenAI's error form.

    Attributes:
        status: HTTP status.
        message: What the client is told.
        param: The field that it is about.
        code: A word for programs.
        headers: Further headers.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.headers = dict(headers or {})
