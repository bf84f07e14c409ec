"""The verb that serves models: what to open, under which names, for whom."""

import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loratory.cli.arguments import ForceTemplate, TrustRemoteCode
from loratory.cli.console import note
from loratory.cli.finished_run import run_subject
from loratory.engine.finished_run import open_run, run_sampling
from loratory.engine.libraries import load_libraries
from loratory.errors import ConfigError

if TYPE_CHECKING:
    from loratory.evaluation.subject import SubjectSource
    from loratory.infer.sampling import Sampling
    from loratory.infer.server.limits import ServerLimits
    from loratory.infer.server.served import ServedSource

_TEXT_OBJECTIVES_NOT = ("reward", "classification")


def serve(
    model: Annotated[str, typer.Argument(metavar="RUN|ADAPTER|MODEL", help="A run, an adapter's folder or a model.")],
    adapter: Annotated[
        list[str] | None, typer.Option(metavar="NAME=PATH", help="A further run or adapter of the same base.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the model; default: its folder's.")] = None,
    base: Annotated[str | None, typer.Option(help="Base of an adapter's folder; default: what it names.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8000,
    api_key_file: Annotated[Path | None, typer.Option(help="File with the key; default: a new one, printed.")] = None,
    allowed_host: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Host name that clients may use.")
    ] = None,
    slots: Annotated[int, typer.Option(min=1, max=256, help="Requests answered side by side.")] = 8,
    queue: Annotated[int, typer.Option(min=0, help="Requests that may wait; more get 429.")] = 32,
    context: Annotated[int | None, typer.Option(min=2, help="Most tokens of prompt and answer.")] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer that may be asked for.")] = 4096,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds that a request may take.")] = 600.0,
    drain: Annotated[float, typer.Option(min=0, help="Seconds to finish requests after SIGTERM.")] = 30.0,
    engine: Annotated[str, typer.Option(help="'loratory' or, where it is installed, 'vllm'.")] = "loratory",
    force_template: ForceTemplate = False,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Serve a model and adapters of it over HTTP, as OpenAI's clients expect."""
    load_libraries()
    from loratory.infer.server.key import new_key, read_key
    from loratory.infer.server.limits import ServerLimits
    from loratory.infer.server.process import is_loopback

    if engine not in ("loratory", "vllm"):
        raise ConfigError(f"--engine: got {engine!r}; it is 'loratory' or 'vllm'")
    if api_key_file is None and not is_loopback(host):
        raise ConfigError(f"--host {host} can be reached from other machines, which needs a key: --api-key-file FILE")
    key = new_key() if api_key_file is None else read_key(api_key_file)
    subject, sources = _sources(model, adapter or [], name=name, base=base)
    limits = ServerLimits(
        max_slots=slots, max_waiting=queue, max_context=context, max_tokens=max_tokens, request_s=timeout, drain_s=drain
    )
    shown_key = key if api_key_file is None else None
    if engine == "vllm":
        _run_vllm(subject, sources, limits, host=host, port=port, key=key, force_template=force_template)
    _run(
        subject, sources, limits, host=host, port=port, key=key, shown_key=shown_key, hosts=allowed_host or [],
        force_template=force_template, trust_remote_code=trust_remote_code,
    )  # fmt: skip


def _run(
    subject: "SubjectSource",
    sources: "list[ServedSource]",
    limits: "ServerLimits",
    *,
    host: str,
    port: int,
    key: str,
    shown_key: str | None,
    hosts: list[str],
    force_template: bool,
    trust_remote_code: bool,
) -> None:
    from loratory.infer.server.guard import Drain
    from loratory.infer.server.process import guarded_app, open_socket, run_server
    from loratory.infer.server.served import open_service

    listener = open_socket(host, port)
    service = open_service(
        subject.base,
        sources,
        limits=limits,
        quantization=subject.quantization,
        force_template=force_template,
        trust_remote_code=trust_remote_code,
    )
    door = Drain()
    app = guarded_app(service, key=key, host=host, allowed_hosts=hosts, limits=limits, drain=door)
    if service.reason is not None:
        note(f"rows are padded to a batch, because {service.reason}")
    shown_host = f"[{host}]" if ":" in host else host
    typer.echo(f"serving {', '.join(service.models)} at http://{shown_host}:{listener.getsockname()[1]}/v1")
    if shown_key is not None:
        typer.echo(f"key: {shown_key}")
    sys.stdout.flush()
    if run_server(app, listener, limits=limits, drain=door):
        typer.echo("stopped: all requests were finished")
    else:
        note("stopped with requests unfinished")


def _run_vllm(
    subject: "SubjectSource",
    sources: "list[ServedSource]",
    limits: "ServerLimits",
    *,
    host: str,
    port: int,
    key: str,
    force_template: bool,
) -> None:
    from loratory.infer.server.vllm import KEY_VARIABLE, require_vllm, vllm_command

    command = vllm_command(
        sys.executable, subject.base.model_name_or_path, sources, host=host, port=port,
        max_context=limits.max_context, force_template=force_template,
    )  # fmt: skip
    require_vllm()
    note("vLLM guards /v1 with the key and leaves other routes open; keep it on this machine or behind a proxy")
    os.environ[KEY_VARIABLE] = key
    os.execv(command[0], command)


def _sources(
    model: str, adapters: list[str], *, name: str | None, base: str | None
) -> "tuple[SubjectSource, list[ServedSource]]":
    """What the base is, and everything to serve: the model, the further adapters, and the base under its own name."""
    from loratory.infer.server.served import ServedSource

    subject, sampling = _locate(model, base=base)
    own = ServedSource(
        name or _name_of(model), subject.adapter_dir, subject.template, subject.contract, sampling=sampling
    )
    sources = [own]
    for given in adapters:
        other_name, separator, path = given.partition("=")
        if not separator or not path:
            raise ConfigError(f"--adapter {given}: write NAME=PATH")
        other, other_sampling = _locate(path, base=subject.base.model_name_or_path)
        if other.adapter_dir is None:
            raise ConfigError(f"--adapter {given}: {path} is a whole model and no adapter of the base")
        sources.append(ServedSource(other_name, other.adapter_dir, other.template, other.contract, other_sampling))
    if subject.adapter_dir is not None:
        base_name = _name_of(subject.base.model_name_or_path)
        taken = {source.name for source in sources}
        sources.append(ServedSource("base" if base_name in taken else base_name, None, own.template, own.contract))
    return subject, sources


def _locate(path: str, *, base: str | None) -> "tuple[SubjectSource, Sampling | None]":
    """Where something to serve lies, and how its answers are drawn unless a request says."""
    folder = Path(path)
    if (folder / "config.yaml").is_file():
        directory, config = open_run(folder)
        if config.objective.name in _TEXT_OBJECTIVES_NOT:
            raise ConfigError(f"{path}: a run of objective '{config.objective.name}' gives no text, so none is served")
        return run_subject(directory, config), run_sampling(config.predict, seed=config.train.seed)
    from loratory.evaluation.subject import locate_subject

    is_adapter = (folder / "adapter_config.json").is_file()
    return locate_subject(path, base=base if is_adapter else None), None


def _name_of(path: str) -> str:
    """A model name from a path: its last part, strange characters replaced."""
    name = re.sub(r"[^A-Za-z0-9._-]", "-", Path(path).resolve().name if Path(path).exists() else path.split("/")[-1])
    return re.sub(r"^[^A-Za-z0-9]+", "", name)[:64] or "model"
