"""The official client against a real server: answers alone, beside others, as a stream, and given up."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import pytest

from loratory.adapter.load import load_adapter
from loratory.config import ModelConfig
from loratory.data.records import Origin, Record, Turn
from loratory.data.templates import bind_template
from loratory.infer.decoding import decode
from loratory.infer.generate import generate_answers
from loratory.model import load_model
from small_server import KEY, LIMITS, Running, open_small, running

QUESTIONS = [
    f"{word} pack {number}?" for number, word in enumerate(["cancel", "intro", "How much", "取消", "a b c d e"])
]
TOP_K = {"top_k": 50}
IMAGE = [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]


@pytest.fixture
def client(server: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.url, api_key=KEY, max_retries=0, timeout=30) as opened:
        yield opened


def ask(client: openai.OpenAI, model: str, question: str, max_tokens: int = 24) -> tuple[str, str, int]:
    reply = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": question}], max_tokens=max_tokens
    )
    choice = reply.choices[0]
    assert choice.message.content is not None
    assert reply.usage is not None
    return choice.message.content, choice.finish_reason, reply.usage.completion_tokens


def alone(base: Path, adapter: Path | None, questions: list[str], max_tokens: int = 24) -> list[tuple[str, str, int]]:
    """The same by PEFT's model and the house's generation, one question at a time."""
    loaded = load_model(ModelConfig(model_name_or_path=str(base)))
    model = loaded.model
    if adapter is not None:
        model = load_adapter(model, adapter, trainable=False, base_identity=loaded.identity)
    template = bind_template("chat", loaded.tokenizer)
    found = []
    for question in questions:
        prompt = template.generation_prompt(Record((Turn("user", question),), Origin("test", 1)))
        answer = generate_answers(model, [prompt], stop_token_ids=template.stop_token_ids, max_new_tokens=max_tokens)[0]
        has_stopped = answer.stop_token_id is not None
        text = decode(loaded.tokenizer, answer.token_ids)
        found.append((text, "stop" if has_stopped else "length", len(answer.token_ids) + has_stopped))
    return found


def all_expected(base: Path, adapters: dict[str, Path]) -> dict[tuple[str, str], tuple[str, str, int]]:
    return {
        (name, question): answer
        for name, folder in {"base": None, **adapters}.items()
        for question, answer in zip(QUESTIONS, alone(base, folder, QUESTIONS), strict=True)
    }


def test_models_are_listed(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["base", "red", "blue"]
    assert client.models.retrieve("red").id == "red"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("green")


def test_eight_clients_and_three_models_at_once_get_what_each_gets_alone(
    client: openai.OpenAI, server: Running, sharp_dir: Callable[[str], Path], adapters: dict[str, Path]
) -> None:
    assert server.service.path == "flat"
    expected = all_expected(sharp_dir("llama"), adapters)
    assert len({text for text, _, _ in expected.values()}) > len(QUESTIONS), "adapters must change answers"
    with ThreadPoolExecutor(8) as pool:
        asked = list(expected) * 2
        found = list(pool.map(lambda pair: ask(client, *pair), asked))
    assert found == [expected[pair] for pair in asked]


@pytest.mark.parametrize("family", ["gpt2", "bloom"])
def test_families_without_flat_layers_answer_as_alone(
    family: str, sharp_dir: Callable[[str], Path], make_adapter: Callable[..., Path]
) -> None:
    base = sharp_dir(family)
    own = {"red": make_adapter(base, 1), "blue": make_adapter(base, 2)}
    expected = all_expected(base, own)
    with (
        running(open_small(base, own)) as started,
        openai.OpenAI(base_url=started.url, api_key=KEY, max_retries=0) as client,
    ):
        assert started.service.path == "padded"
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda pair: ask(client, *pair), expected))
    assert found == list(expected.values())


def test_a_conversation_goes_on_from_what_was_computed(client: openai.OpenAI, server: Running) -> None:
    messages = [{"role": "user", "content": "cancel the roaming pack, please"}]
    first = client.chat.completions.create(model="red", messages=messages, max_tokens=9)  # type: ignore[arg-type]
    messages += [
        first.choices[0].message.model_dump(),  # type: ignore[list-item]
        {"role": "user", "content": "and the other one"},
    ]
    again = [
        client.chat.completions.create(model="red", messages=messages, max_tokens=9).choices[0].message.content  # type: ignore[arg-type]
        for _ in range(2)
    ]
    server.service.engine.forget()
    fresh = client.chat.completions.create(model="red", messages=messages, max_tokens=9)  # type: ignore[arg-type]
    assert again == [fresh.choices[0].message.content] * 2


def test_a_stream_has_the_same_text_and_its_usage(client: openai.OpenAI) -> None:
    whole = ask(client, "red", "取消 intro")
    stream = client.chat.completions.create(
        model="red",
        messages=[{"role": "user", "content": "取消 intro"}],
        max_tokens=24,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    reasons = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices]
    assert chunks[-1].usage is not None
    assert (text, reasons[-1], chunks[-1].usage.completion_tokens) == whole
    assert reasons[:-1] == [None] * (len(reasons) - 1)
    assert len(reasons) > 5


def test_completions_of_text_and_tokens_in_several_choices(client: openai.OpenAI, server: Running) -> None:
    texts = ["cancel", "intro_111|9.9"]
    reply = client.completions.create(model="blue", prompt=texts, max_tokens=8)
    ids = [server.service.tokenizer(text)["input_ids"] for text in texts]
    by_ids = client.completions.create(model="blue", prompt=ids, max_tokens=8)
    assert [choice.text for choice in reply.choices] == [choice.text for choice in by_ids.choices]
    assert [choice.index for choice in reply.choices] == [0, 1]
    assert reply.usage is not None
    assert reply.usage.prompt_tokens == sum(map(len, ids))
    streamed = client.completions.create(model="blue", prompt=texts, max_tokens=8, stream=True)
    pieces = ["", ""]
    for chunk in streamed:
        pieces[chunk.choices[0].index] += chunk.choices[0].text
    assert pieces == [choice.text for choice in reply.choices]
    assert client.completions.create(model="blue", prompt="cancel").choices[0].text.startswith(pieces[0])


def test_draws_depend_on_seed_and_choice_and_on_nothing_else(client: openai.OpenAI) -> None:
    def draw(seed: int) -> list[str]:
        reply = client.completions.create(
            model="red",
            prompt="a",
            max_tokens=12,
            temperature=1.5,
            top_p=0.95,
            n=3,
            seed=seed,
            extra_body=TOP_K,
        )
        return [choice.text for choice in reply.choices]

    first = draw(5)
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(draw, [5, 6, 5]))[::2] == [first, first]
    assert len(set(first)) == 3
    assert draw(6) != first


def test_a_stop_string_ends_the_answer_before_it(client: openai.OpenAI) -> None:
    text = ask(client, "red", "cancel")[0]
    assert len(text) > 8
    stop = text[5:8]
    for stream in (False, True):
        reply = client.chat.completions.create(
            model="red", messages=[{"role": "user", "content": "cancel"}], max_tokens=24, stop=[stop], stream=stream
        )
        if stream:
            chunks = [chunk.choices[0] for chunk in reply]  # type: ignore[union-attr]
            found = "".join(choice.delta.content or "" for choice in chunks), chunks[-1].finish_reason
        else:
            found = reply.choices[0].message.content, reply.choices[0].finish_reason  # type: ignore[union-attr]
        assert found == (text[: text.index(stop)], "stop")


def test_logprobs_are_those_of_the_likeliest(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(
        model="red", messages=[{"role": "user", "content": "x"}], max_tokens=5, logprobs=True, top_logprobs=2
    )
    logprobs = reply.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content
    for token in logprobs.content:
        assert token.logprob == token.top_logprobs[0].logprob >= token.top_logprobs[1].logprob
    plain = client.completions.create(model="red", prompt="x", max_tokens=5, logprobs=1)
    assert plain.choices[0].logprobs is not None
    assert len(plain.choices[0].logprobs.tokens or []) >= 1


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"max_tokens": 4000}, "max_tokens"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"n": 1000}, "n"),
        ({"temperature": 9.0}, "temperature"),
        ({"presence_penalty": 1.0}, "presence_penalty"),
        ({"extra_body": {"max_token": 3}}, "max_token"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"stop": ["x" * 65]}, "stop"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "messages"),
        ({"messages": [{"role": "user", "content": "x " * 600}]}, "messages"),
        ({"messages": [{"role": "user", "content": IMAGE}]}, "messages"),
        ({"messages": [{"role": "user", "content": "\ufdd0"}]}, "messages"),
    ],
)  # fmt: skip
def test_what_cannot_be_obeyed_is_refused_by_name(client: openai.OpenAI, change: dict[str, object], named: str) -> None:
    request: dict[str, object] = {"model": "red", "messages": [{"role": "user", "content": "x"}], "max_tokens": 3}
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**{**request, **change})  # type: ignore[call-overload]
    assert caught.value.param == named


@pytest.mark.parametrize("name", ["../base", "%2e%2e", "http://host/x", "red\x00", "x" * 64])
def test_names_are_looked_up_and_nothing_else(client: openai.OpenAI, name: str) -> None:
    with pytest.raises(openai.NotFoundError):
        client.completions.create(model=name, prompt="x")


def test_too_many_requests_are_turned_away_and_a_client_that_leaves_frees_its_slot(
    sharp_dir: Callable[[str], Path], adapters: dict[str, Path]
) -> None:
    from dataclasses import replace

    limits = replace(LIMITS, max_slots=1, max_waiting=1, max_tokens=400)
    service = open_small(sharp_dir("llama"), adapters, limits)
    for model in service.models.values():
        model.template.stop_token_ids = ()
    with (
        running(service, limits) as started,
        openai.OpenAI(base_url=started.url, api_key=KEY, max_retries=0, timeout=30) as client,
    ):

        def stream() -> "openai.Stream[openai.types.Completion]":
            return client.completions.create(model="base", prompt="a", max_tokens=400, stream=True)

        streams = [stream()]
        next(iter(streams[0]))
        streams.append(stream())
        with pytest.raises(openai.RateLimitError) as caught:
            ask(client, "red", "x")
        assert int(caught.value.response.headers["retry-after"]) >= 1
        assert service.engine.num_rows == 2
        for one in streams:
            one.close()
        patience = time.monotonic() + 5
        while service.engine.num_rows and time.monotonic() < patience:
            time.sleep(0.01)
        assert service.engine.num_rows == 0
        assert ask(client, "red", "x", max_tokens=2)[2] == 2


def test_a_failure_ends_its_requests_and_nothing_else(
    server: Running, client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = ask(client, "red", "x")

    def fail() -> None:
        raise RuntimeError("secret path /srv/model")

    with monkeypatch.context() as patch:
        patch.setattr(server.service.engine._decoder, "step", fail)
        with pytest.raises(openai.InternalServerError) as caught:
            ask(client, "red", "x")
        assert "secret" not in str(caught.value)
        with pytest.raises(openai.APIError, match="failed"):
            list(client.completions.create(model="red", prompt="x", stream=True))
    assert ask(client, "red", "x") == expected
