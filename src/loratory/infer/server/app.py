"""The routes."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from loratory.errors import MissingExtraError
from loratory.infer.server.answer import frames, whole_reply
from loratory.infer.server.guard import Drain
from loratory.infer.server.job import Job, Occupancy, begin_job
from loratory.infer.server.limits import ServerLimits
from loratory.infer.server.refusal import RefusalError
from loratory.infer.server.replies import ChatReply, CompletionReply, FaultReply, Model, ModelList, fault
from loratory.infer.server.requests import ChatRequest, CompletionRequest
from loratory.infer.server.served import Service

if TYPE_CHECKING:
    from fastapi import FastAPI, Request, Response

logger = logging.getLogger(__name__)

_REFUSALS = {
    400: "The request is not valid.",
    401: "The key is missing or wrong.",
    403: "The host or origin is not allowed.",
    408: "The body did not arrive in time.",
    413: "The body is too large.",
    415: "The body is not JSON.",
    429: "Too many requests are waiting.",
    431: "Too many headers.",
    500: "The server failed.",
    503: "The server is shutting down.",
    504: "The answer took too long.",
}


def make_app(service: Service, *, limits: ServerLimits, drain: Drain) -> "FastAPI":
    """The application without its guard.

    Args:
        service: What is served; its engine is started and stopped with the application.
        limits: Lengths and times.
        drain: Told by `/healthz`.

    Raises:
        MissingExtraError: FastAPI is not installed.
    """
    try:
        from fastapi import FastAPI, Request
        from fastapi.responses import JSONResponse
    except ImportError as error:
        raise MissingExtraError("serving", "serve") from error

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        service.engine.start()
        yield
        await asyncio.to_thread(service.engine.stop)

    app = FastAPI(
        title="loratory serve",
        version="1",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        responses={status: {"model": FaultReply, "description": text} for status, text in _REFUSALS.items()},
    )
    created = int(time.time())
    occupancy = Occupancy()
    missing: dict[int | str, dict[str, Any]] = {404: {"model": FaultReply, "description": "No such model."}}
    streams: dict[int | str, dict[str, Any]] = {
        **missing, 200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}
    }  # fmt: skip

    @app.get("/healthz", response_model=dict[str, str])
    async def health() -> JSONResponse:
        return JSONResponse({"status": "closing" if drain.is_closing else "ok"}, 503 if drain.is_closing else 200)

    @app.get("/v1/models")
    async def list_models() -> ModelList:
        return ModelList(data=[Model(id=name, created=created) for name in service.models])

    @app.get("/v1/models/{model}", responses=missing)
    async def show_model(model: str) -> Model:
        if model not in service.models:
            raise RefusalError(404, "no such model; see /v1/models", param="model", code="model_not_found")
        return Model(id=model, created=created)

    @app.post("/v1/chat/completions", response_model=ChatReply, responses=streams)
    async def chat(body: ChatRequest, request: Request) -> Any:
        job = await begin_job(service, body, limits=limits, occupancy=occupancy)
        return await _respond(job, body, request)

    @app.post("/v1/completions", response_model=CompletionReply, responses=streams)
    async def complete(body: CompletionRequest, request: Request) -> Any:
        job = await begin_job(service, body, limits=limits, occupancy=occupancy)
        return await _respond(job, body, request)

    _handle_errors(app)
    _describe(app)
    return app


async def _respond(job: Job, body: ChatRequest | CompletionRequest, request: "Request") -> "Response":
    """The reply, whole or as a stream; the job ends with it, or when the client leaves."""
    from fastapi.responses import JSONResponse

    if body.stream:
        return _event_stream(frames(job, body), job.end)
    collected = asyncio.ensure_future(whole_reply(job, body))
    left = asyncio.ensure_future(_until_left(request))
    try:
        await asyncio.wait({collected, left}, return_when=asyncio.FIRST_COMPLETED)
        if not collected.done():
            raise RefusalError(400, "the client left")
        return JSONResponse(collected.result().model_dump())
    finally:
        job.end()
        for task in (collected, left):
            task.cancel()


async def _until_left(request: "Request") -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _event_stream(content: AsyncIterator[str], on_end: Callable[[], None]) -> "Response":
    from fastapi.responses import StreamingResponse

    class EventStream(StreamingResponse):
        """Ends the job even when not one frame could be sent."""

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            try:
                await super().__call__(scope, receive, send)
            finally:
                on_end()

    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    return EventStream(content, media_type="text/event-stream", headers=headers)


def _handle_errors(app: "FastAPI") -> None:
    """Every error in OpenAI's form, and none with a trace."""
    from fastapi import Request
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import JSONResponse
    from starlette.exceptions import HTTPException

    @app.exception_handler(RefusalError)
    async def refused(_request: Request, error: RefusalError) -> JSONResponse:
        content = fault(error.status, error.message, param=error.param, code=error.code)
        return JSONResponse(content, error.status, error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(_request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        place = [str(part) for part in first["loc"] if part != "body"]
        # Places inside unions are named after Python types, which say nothing to a client.
        param = place[0] if place and first["type"] != "json_invalid" else None
        text = f"{'.'.join(place)}: {first['msg']}" if param else "the body is not valid JSON"
        if first["type"] == "extra_forbidden":
            text = f"{param}: this server does not support it"
        return JSONResponse(fault(400, text, param=param), 400)

    @app.exception_handler(HTTPException)
    async def stopped(_request: Request, error: HTTPException) -> JSONResponse:
        message = {404: "no such route", 405: "this route has no such method"}.get(error.status_code, "bad request")
        return JSONResponse(fault(error.status_code, message), error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def failed(_request: Request, error: Exception) -> JSONResponse:
        logger.error("a request failed", exc_info=error)
        return JSONResponse(fault(500, "the server failed on this request", code="internal_error"), 500)


def _describe(app: "FastAPI") -> None:
    """An OpenAPI document that says what the server does: 400 where FastAPI would say 422, and the key."""
    make = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = make()
            for path, methods in document["paths"].items():
                for operation in methods.values():
                    operation["responses"].pop("422", None)
                    if path != "/healthz":
                        operation["security"] = [{"key": []}]
            document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            for name in ("HTTPValidationError", "ValidationError"):
                document["components"]["schemas"].pop(name, None)
        assert app.openapi_schema is not None
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
