"""Replies in OpenAI's form."""

from typing import Any, Literal

from pydantic import BaseModel

from loratory.infer.server.row import FinishReason


class Model(BaseModel):
    """A name that is served."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "loratory"


class ModelList(BaseModel):
    """All names that are served."""

    object: Literal["list"] = "list"
    data: list[Model]


class Usage(BaseModel):
    """Tokens of a request; an answer's stop token counts."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class TopLogprob(BaseModel):
    """A token that could have stood in a place."""

    token: str
    logprob: float
    bytes: list[int]


class ContentLogprob(TopLogprob):
    """A token of an answer."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(BaseModel):
    """Log-probabilities of a chat answer, in nats."""

    content: list[ContentLogprob]
    refusal: None = None


class CompletionLogprobs(BaseModel):
    """Log-probabilities of a completion, in nats."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class AnswerMessage(BaseModel):
    """An answer."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class ChatChoice(BaseModel):
    """One of the answers to a conversation."""

    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None = None
    finish_reason: FinishReason


class _Reply(BaseModel):
    """What every reply says about itself."""

    id: str
    created: int
    model: str
    usage: Usage


class ChatReply(_Reply):
    """Answers to a conversation."""

    object: Literal["chat.completion"] = "chat.completion"
    choices: list[ChatChoice]


class CompletionChoice(BaseModel):
    """One of the continuations."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: FinishReason


class CompletionReply(_Reply):
    """Continuations."""

    object: Literal["text_completion"] = "text_completion"
    choices: list[CompletionChoice]


class Fault(BaseModel):
    """What was wrong."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class FaultReply(BaseModel):
    """A refusal."""

    error: Fault


_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


def fault(status: int, message: str, *, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """The body of a refusal."""
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    return FaultReply(error=Fault(message=message, type=kind, param=param, code=code)).model_dump()
