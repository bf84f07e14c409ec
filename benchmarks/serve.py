"""`loratory serve` against `transformers serve` on the same model, over HTTP.

    python -m benchmarks.serve MODEL --tokens 32

Each server runs in a process of its own, one after the other. Questions of different length are asked greedily by one
client at a time, then by eight; a warm-up goes first. Rates count answer tokens. With `--adapters N` ours also answers
eight clients that are spread over the base and N random adapters.
"""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import openai
import typer

TEXT = "How do I cancel the roaming pack that was activated last month for my second number"
QUESTIONS = [f"{number}. {TEXT[: 20 + 5 * (number % 12)]}? Explain step by step." for number in range(64)]

PORT = 8765
THEIRS: dict[str, list[str]] = {
    "transformers serve": [],
    "transformers serve, continuous batching": ["--continuous-batching"],
}


@contextmanager
def server(command: list[str], *, threads: int, port: int | None = None) -> Iterator[tuple[str, str]]:
    """A server's process; yields its address and key once it is ready: ours prints them, others listen on a port."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    with TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with log.open("wb") as stream:
            process = subprocess.Popen(command, stdout=stream, stderr=stream, env=environment)
        try:
            until_s = time.monotonic() + 300
            while not (found := _address(log.read_text(), port)):
                if process.poll() is not None or time.monotonic() > until_s:
                    raise SystemExit(f"{' '.join(command)} did not start:\n{log.read_text()[-2000:]}")
                time.sleep(0.2)
            key = re.search(r"key: (\S+)", log.read_text())
            yield found, key[1] if key else "none"
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


def _address(log: str, port: int | None) -> str | None:
    if port is None:
        found = re.search(r"at (http://\S+)\n", log)
        return found[1] if found else None
    with suppress(OSError), socket.create_connection(("localhost", port), timeout=1):
        return f"http://localhost:{port}/v1"
    return None


def answer(client: openai.OpenAI, model: str, question: str, *, tokens: int) -> str:
    """One streamed answer; both servers stream."""
    stream = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": question}], max_tokens=tokens, temperature=0, stream=True
    )
    return "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)


def measure(
    name: str, url: str, key: str, models: list[str], *, tokens: int, alone: int, together: int, tokenizer: object
) -> list[str]:
    """Print and return answers of one client at a time, then of eight."""
    with openai.OpenAI(base_url=url, api_key=key, max_retries=0, timeout=300) as client:
        answer(client, models[0], "Hello", tokens=4)
        rates = []
        for clients, questions in ((1, QUESTIONS[:alone]), (8, QUESTIONS[:together])):
            start_s = time.perf_counter()
            with ThreadPoolExecutor(clients) as pool:
                asked = [(models[place % len(models)], question) for place, question in enumerate(questions)]
                texts = list(pool.map(lambda pair: answer(client, pair[0], pair[1], tokens=tokens), asked))
            seconds = time.perf_counter() - start_s
            num_tokens = sum(len(tokenizer(text)["input_ids"]) for text in texts)  # type: ignore[operator]
            rates.append(num_tokens / seconds)
            rate = f"{rates[-1]:7.1f} tokens/s, {len(texts) / seconds:5.2f} answers/s"
            print(f"{name:42} {clients} clients: {rate}", flush=True)
        print(f"{name:42} eight clients against one: {rates[1] / rates[0]:.2f}", flush=True)
    return texts


def main(
    model: Annotated[Path, typer.Argument(help="A model's folder.")],
    tokens: Annotated[int, typer.Option(help="Longest answer.")] = 32,
    alone: Annotated[int, typer.Option(help="Questions of the single client.")] = 6,
    together: Annotated[int, typer.Option(help="Questions of the eight clients.")] = 24,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 2,
    adapters: Annotated[int, typer.Option(help="Random adapters served beside the base.")] = 3,
    only: Annotated[str, typer.Option(help="ours, theirs or both.")] = "both",
    continuous: Annotated[bool, typer.Option(help="Also transformers' continuous batching (takes 14 GB).")] = False,
) -> None:
    """Print tokens per second of each server."""
    from transformers import AutoTokenizer

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # an ended benchmark ends its servers
    tokenizer = AutoTokenizer.from_pretrained(model)
    sizes = {"tokens": tokens, "alone": alone, "together": together, "tokenizer": tokenizer}
    texts: dict[str, list[str]] = {}
    bin_folder = Path(sys.executable).parent
    if only != "theirs":
        with TemporaryDirectory() as folder:
            extra = [f"--adapter=a{n}={path}" for n, path in enumerate(_adapters(model, Path(folder), adapters))]
            command = [str(bin_folder / "loratory"), "serve", str(model), "--name", "base", "--port", "0", *extra]
            with server(command, threads=threads) as (url, key):
                texts["ours"] = measure("loratory serve", url, key, ["base"], **sizes)  # type: ignore[arg-type]
                names = ["base", *(f"a{n}" for n in range(adapters))]
                if adapters:
                    measure(f"loratory serve, {len(names)} models mixed", url, key, names, **sizes)  # type: ignore[arg-type]
    if only != "ours":
        for label, option in THEIRS.items():
            if option and not continuous:
                continue
            command = [str(bin_folder / "transformers"), "serve", str(model), *option, "--port", str(PORT)]
            command += ["--device", "cpu", "--dtype", "float32"]
            with server(command, threads=threads, port=PORT) as (url, key):
                try:
                    texts[label] = measure(label, url, key, [str(model)], **sizes)  # type: ignore[arg-type]
                except openai.OpenAIError as error:
                    print(f"{label}: failed ({str(error)[:200]})", flush=True)
    for label, found in texts.items():
        if label != "ours" and "ours" in texts:
            same = sum(a == b for a, b in zip(texts["ours"], found, strict=True))
            print(f"{label}: same answers as ours {same} of {len(found)}")


def _adapters(model: Path, folder: Path, number: int) -> list[Path]:
    """Random adapters of the model, rank 8 on every linear layer."""
    if not number:
        return []
    from loratory.adapter import attach_adapter, save_adapter
    from loratory.config import AdapterConfig, ModelConfig
    from loratory.model import load_model

    paths = []
    for seed in range(number):
        loaded = load_model(ModelConfig(model_name_or_path=str(model)))
        adapted = attach_adapter(loaded.model, AdapterConfig(rank=8, alpha=16, targets="all"), seed=seed).model
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.data.normal_(0, 0.01)
        paths.append(folder / f"a{seed}")
        save_adapter(adapted, paths[-1], base_identity=loaded.identity)
    return paths


if __name__ == "__main__":
    typer.run(main)
