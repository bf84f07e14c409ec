"""A request under way: its rows in the engine, and their pieces as they come."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

from loratory.data.records import Origin, Record, Role, Turn
from loratory.errors import TemplateError
from loratory.infer.sampling import Sampling
from loratory.infer.server.limits import ServerLimits
from loratory.infer.server.refusal import RefusalError
from loratory.infer.server.requests import ChatRequest, CompletionRequest, GenerationRequest
from loratory.infer.server.row import Piece, Row, RowRequest
from loratory.infer.server.served import ServedModel, Service

_COLDEST = 1e-4
_DEFAULT_COMPLETION_TOKENS = 16


@dataclass(slots=True)
class Occupancy:
    """Rows that requests hold at present; touched by the event loop only."""

    num_rows: int = 0


class Job:
    """The rows of a request.

    Args:
        rows: One for each answer, in order.
        num_prompt_tokens: Of all prompts.
        deadline_s: On the event loop's clock.
        pieces: Where the rows' pieces arrive.
        on_end: Called once when the job ends, however it does.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        *,
        num_prompt_tokens: int,
        deadline_s: float,
        pieces: "asyncio.Queue[tuple[int, Piece]]",
        on_end: Callable[[Sequence[Row]], None],
    ) -> None:
        self.num_rows = len(rows)
        self.num_prompt_tokens = num_prompt_tokens
        self.created = int(time.time())
        self._rows = rows
        self._deadline_s = deadline_s
        self._pieces = pieces
        self._on_end = on_end
        self._has_ended = False

    async def pieces(self) -> AsyncIterator[tuple[int, Piece]]:
        """Each piece with the number of its answer, until all answers have ended.

        Raises:
            RefusalError: The time is over, or the server failed.
        """
        num_left = self.num_rows
        while num_left:
            left_s = self._deadline_s - asyncio.get_running_loop().time()
            try:
                index, piece = await asyncio.wait_for(self._pieces.get(), max(left_s, 0.001))
            except TimeoutError:
                raise RefusalError(504, "the answer took longer than this server allows", code="timeout") from None
            if piece.error:
                raise RefusalError(500, "the server failed on this request", code="internal_error")
            num_left -= piece.finish_reason is not None
            yield index, piece

    def end(self) -> None:
        """Free what the job holds; rows that still run are given up."""
        if not self._has_ended:
            self._has_ended = True
            self._on_end(self._rows)


async def begin_job(
    service: Service, request: ChatRequest | CompletionRequest, *, limits: ServerLimits, occupancy: Occupancy
) -> Job:
    """Check a request, make its prompts off the event loop, and put its rows into the engine's queue.

    Raises:
        RefusalError: It cannot be answered, or not now.
    """
    model = service.models.get(request.model)
    if model is None:
        raise RefusalError(404, "no such model; see /v1/models", param="model", code="model_not_found")
    num_rows = (request.n or 1) * _num_prompts(request)
    engine = service.engine
    if occupancy.num_rows and occupancy.num_rows + num_rows > engine.num_slots + limits.max_waiting:
        wait_s = 1 + occupancy.num_rows // engine.num_slots
        raise RefusalError(
            429,
            "too many requests are waiting; try again later",
            code="queue_full",
            headers={"retry-after": str(wait_s)},
        )
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + limits.request_s
    occupancy.num_rows += num_rows
    try:
        prompts = await loop.run_in_executor(None, _prompts, service, model, request)
        room = [_room(request, len(prompt), service.context, limits) for prompt in prompts]
    except BaseException:
        occupancy.num_rows -= num_rows
        raise
    arrived: asyncio.Queue[tuple[int, Piece]] = asyncio.Queue()

    def sink_of(index: int) -> Callable[[Piece], None]:
        return lambda piece: _hand_over(loop, arrived, index, piece)

    seed = secrets.randbits(63) if request.seed is None else request.seed
    rows: list[Row] = []
    for prompt, max_new_tokens in zip(prompts, room, strict=True):
        for choice in range(request.n or 1):
            wanted = RowRequest(
                variant=model.variant,
                prompt=prompt,
                max_new_tokens=max_new_tokens,
                stop_token_ids=frozenset(model.template.stop_token_ids),
                stop_strings=request.stops,
                sampling=_sampling(request, model, seed),
                draw_number=choice,
                num_logprobs=_num_logprobs(request),
            )
            rows.append(Row(wanted, service.answer_tokenizer, sink_of(len(rows))))

    def on_end(ended: Sequence[Row]) -> None:
        occupancy.num_rows -= num_rows
        engine.cancel(ended)

    engine.submit(rows)
    return Job(rows, num_prompt_tokens=sum(map(len, prompts)), deadline_s=deadline_s, pieces=arrived, on_end=on_end)


def _hand_over(
    loop: asyncio.AbstractEventLoop, arrived: "asyncio.Queue[tuple[int, Piece]]", index: int, piece: Piece
) -> None:
    """From the engine's thread to the event loop; nobody is there any more when the server has ended."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(arrived.put_nowait, (index, piece))


def _num_prompts(request: ChatRequest | CompletionRequest) -> int:
    if isinstance(request, ChatRequest) or isinstance(request.prompt, str) or isinstance(request.prompt[0], int):
        return 1
    return len(request.prompt)


def _prompts(service: Service, model: ServedModel, request: ChatRequest | CompletionRequest) -> list[list[int]]:
    with service.tokenizer_lock:
        if isinstance(request, ChatRequest):
            return [_chat_prompt(model, request)]
        return _raw_prompts(service, request)


def _chat_prompt(model: ServedModel, request: ChatRequest) -> list[int]:
    turns = tuple(Turn(_role(message.role), message.text) for message in request.messages)
    if turns[-1].role == "assistant":
        raise RefusalError(400, "the last message is the assistant's; there is nothing to answer", param="messages")
    asked = [turn.content for turn in turns if turn.role == "user"]
    fields = {"instruction": asked[0]} if len(asked) == 1 else {}
    try:
        prompt = model.template.generation_prompt(Record(turns, Origin("messages", len(turns)), fields=fields))
    except TemplateError as error:
        raise RefusalError(400, str(error), param="messages") from None
    if not prompt:
        raise RefusalError(400, "the messages make an empty prompt", param="messages")
    return prompt


def _role(name: str) -> Role:
    return "system" if name == "developer" else name  # type: ignore[return-value]


def _raw_prompts(service: Service, request: CompletionRequest) -> list[list[int]]:
    """Texts as the tokenizer reads them, control tokens included; token ids as they are."""
    given = request.prompt
    items = [given] if isinstance(given, str) or isinstance(given[0], int) else given
    prompts: list[list[int]] = []
    size = len(service.tokenizer)
    for item in items:
        ids = _token_ids(service, item) if isinstance(item, str) else list(item)
        if not ids:
            raise RefusalError(400, "the prompt is empty", param="prompt")
        if max(ids) >= size:
            raise RefusalError(400, f"token ids must be below {size}", param="prompt")
        prompts.append(ids)
    return prompts


def _token_ids(service: Service, text: str) -> list[int]:
    return list(service.tokenizer(text, verbose=False)["input_ids"])


def _room(request: ChatRequest | CompletionRequest, length: int, context: int, limits: ServerLimits) -> int:
    """Most tokens that the answer may have."""
    wanted = request.max_tokens
    if isinstance(request, ChatRequest) and request.max_completion_tokens is not None:
        wanted = request.max_completion_tokens
    if wanted is None:
        left = min(context - length, limits.max_tokens)
        if left >= 1:
            return left if isinstance(request, ChatRequest) else min(left, _DEFAULT_COMPLETION_TOKENS)
        wanted = 1
    if wanted > limits.max_tokens:
        raise RefusalError(
            400, f"max_tokens is {wanted}; this server gives at most {limits.max_tokens}", param="max_tokens"
        )
    if length + wanted > context:
        raise RefusalError(
            400,
            f"the prompt has {length} tokens and the answer may have {wanted}; together at most {context} fit",
            param="messages" if isinstance(request, ChatRequest) else "prompt",
            code="context_length_exceeded",
        )
    return wanted


def _sampling(request: GenerationRequest, model: ServedModel, seed: int) -> Sampling | None:
    """How tokens are drawn; what the request leaves out is the model's own choice."""
    own = model.sampling
    temperature = request.temperature
    if temperature is None:
        is_meant = request.top_p is not None or request.top_k is not None
        temperature = own.temperature if own is not None else 1.0 if is_meant else 0.0
    if temperature < _COLDEST:
        return None
    top_p = request.top_p if request.top_p is not None else own.top_p if own is not None else 1.0
    top_k = request.top_k if request.top_k is not None else own.top_k if own is not None else 0
    return Sampling(temperature=temperature, top_p=top_p, top_k=top_k, seed=seed)


def _num_logprobs(request: ChatRequest | CompletionRequest) -> int | None:
    if isinstance(request, CompletionRequest):
        return request.logprobs
    if request.top_logprobs is not None and not request.logprobs:
        raise RefusalError(400, "top_logprobs needs logprobs: true", param="top_logprobs")
    return (request.top_logprobs or 0) if request.logprobs else None
