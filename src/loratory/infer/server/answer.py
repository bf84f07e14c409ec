"""From pieces to OpenAI's replies: collected into one, or one frame after the other."""

import json
import secrets
from collections.abc import AsyncIterator, Sequence
from typing import Any

from loratory.infer.server.job import Job
from loratory.infer.server.refusal import RefusalError
from loratory.infer.server.replies import (
    AnswerMessage,
    ChatChoice,
    ChatLogprobs,
    ChatReply,
    CompletionChoice,
    CompletionLogprobs,
    CompletionReply,
    ContentLogprob,
    TopLogprob,
    Usage,
    fault,
)
from loratory.infer.server.requests import ChatRequest, CompletionRequest
from loratory.infer.server.row import FinishReason, TokenLogprob


class _Answer:
    """What came of one row so far."""

    def __init__(self) -> None:
        self.text = ""
        self.num_tokens = 0
        self.logprobs: list[TokenLogprob] = []
        self.finish_reason: FinishReason = "length"


async def whole_reply(job: Job, request: ChatRequest | CompletionRequest) -> ChatReply | CompletionReply:
    """All answers of a job in one reply.

    Raises:
        RefusalError: As `Job.pieces`.
    """
    answers = [_Answer() for _ in range(job.num_rows)]
    async for index, piece in job.pieces():
        answer = answers[index]
        answer.text += piece.text
        answer.num_tokens = piece.num_tokens
        answer.logprobs += piece.logprobs
        answer.finish_reason = piece.finish_reason or answer.finish_reason
    usage = _usage(job, [answer.num_tokens for answer in answers])
    if isinstance(request, ChatRequest):
        chat = [
            ChatChoice(
                index=index,
                message=AnswerMessage(content=answer.text),
                logprobs=_chat_logprobs(answer.logprobs) if request.logprobs else None,
                finish_reason=answer.finish_reason,
            )
            for index, answer in enumerate(answers)
        ]
        return ChatReply(id=_new_id(request), created=job.created, model=request.model, choices=chat, usage=usage)
    texts = [
        CompletionChoice(
            index=index,
            text=answer.text,
            logprobs=None if request.logprobs is None else _completion_logprobs(answer.logprobs, 0),
            finish_reason=answer.finish_reason,
        )
        for index, answer in enumerate(answers)
    ]
    return CompletionReply(id=_new_id(request), created=job.created, model=request.model, choices=texts, usage=usage)


async def frames(job: Job, request: ChatRequest | CompletionRequest) -> AsyncIterator[str]:
    """Server-sent events: a chunk for each piece of text, at the end `[DONE]`; a failure is a frame with an error."""
    head: dict[str, Any] = {
        "id": _new_id(request),
        "object": "chat.completion.chunk" if isinstance(request, ChatRequest) else "text_completion",
        "created": job.created,
        "model": request.model,
    }
    wants_usage = request.stream_options is not None and bool(request.stream_options.include_usage)
    if wants_usage:
        head["usage"] = None
    num_tokens = [0] * job.num_rows
    offsets = [0] * job.num_rows
    try:
        if isinstance(request, ChatRequest):
            for index in range(job.num_rows):
                delta = {"role": "assistant", "content": ""}
                yield _frame({**head, "choices": [{"index": index, "delta": delta, "finish_reason": None}]})
        async for index, piece in job.pieces():
            num_tokens[index] = piece.num_tokens
            if not (piece.text or piece.finish_reason or piece.logprobs):
                continue
            choice: dict[str, Any] = {"index": index, "finish_reason": piece.finish_reason, "logprobs": None}
            if isinstance(request, ChatRequest):
                choice["delta"] = {"content": piece.text} if piece.text else {}
                if piece.logprobs:
                    choice["logprobs"] = _chat_logprobs(piece.logprobs).model_dump()
            else:
                choice["text"] = piece.text
                if piece.logprobs:
                    choice["logprobs"] = _completion_logprobs(piece.logprobs, offsets[index]).model_dump()
                offsets[index] += len(piece.text)
            yield _frame({**head, "choices": [choice]})
    except RefusalError as refusal:
        yield _frame(fault(refusal.status, refusal.message, code=refusal.code))
    else:
        if wants_usage:
            yield _frame({**head, "choices": [], "usage": _usage(job, num_tokens).model_dump()})
    yield "data: [DONE]\n\n"


def _frame(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content, ensure_ascii=False, separators=(',', ':'))}\n\n"


def _new_id(request: ChatRequest | CompletionRequest) -> str:
    kind = "chatcmpl" if isinstance(request, ChatRequest) else "cmpl"
    return f"{kind}-{secrets.token_hex(12)}"


def _usage(job: Job, num_tokens: Sequence[int]) -> Usage:
    num_new = sum(num_tokens)
    return Usage(
        prompt_tokens=job.num_prompt_tokens, completion_tokens=num_new, total_tokens=job.num_prompt_tokens + num_new
    )


def _chat_logprobs(logprobs: Sequence[TokenLogprob]) -> ChatLogprobs:
    return ChatLogprobs(
        content=[
            ContentLogprob(
                token=one.text,
                logprob=one.logprob,
                bytes=list(one.text.encode()),
                top_logprobs=[
                    TopLogprob(token=text, logprob=value, bytes=list(text.encode())) for text, value in one.top
                ],
            )
            for one in logprobs
        ]
    )


def _completion_logprobs(logprobs: Sequence[TokenLogprob], offset: int) -> CompletionLogprobs:
    offsets = []
    for one in logprobs:
        offsets.append(offset)
        offset += len(one.text)
    return CompletionLogprobs(
        tokens=[one.text for one in logprobs],
        token_logprobs=[one.logprob for one in logprobs],
        top_logprobs=[dict(one.top) for one in logprobs],
        text_offset=offsets,
    )
