"""The verbs that hand a trained model to other programs: export gguf, ollama, vllm, card and hub."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loratory.cli.arguments import ForceTemplate, TrustRemoteCode
from loratory.cli.console import note
from loratory.cli.run_card import run_card
from loratory.engine.finished_run import open_run
from loratory.errors import ConfigError, RunError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from loratory.config import ModelConfig, RunConfig
    from loratory.data.templates import BoundTemplate
    from loratory.export.conversation import ConversationFrame
    from loratory.export.gguf_check import GgufDtype
    from loratory.export.gguf_file import GgufReport
    from loratory.export.whole_model import WholeModel
    from loratory.run import RunDirectory

Source = Annotated[
    str, typer.Argument(metavar="MODEL|RUN", help="A run directory, model folder or hub name.", show_default=False)
]
Run = Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.", show_default=False)]
Dtype = Annotated[str, typer.Option(help="f32, f16, bf16 or q8_0.")]
Template = Annotated[
    str | None, typer.Option(help="Prompt template; default: the run's, or the model's own.", show_default=False)
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an earlier file.")]


def gguf(
    source: Source,
    output: Annotated[Path, typer.Option(help="The file, ending in .gguf.", show_default=False)],
    dtype: Dtype = "f16",
    template: Template = None,
    overwrite: Overwrite = False,
    force_template: ForceTemplate = False,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Write one GGUF file for llama.cpp, Ollama and LM Studio; published only if it answers as the model does."""
    chosen = _dtype(dtype)
    with _opened(
        source, template, output.absolute().parent, force_template=force_template, trust_remote_code=trust_remote_code
    ) as opened:
        _print_report(_write_gguf(opened, output, chosen, overwrite=overwrite))


def ollama(
    source: Source,
    output: Annotated[Path, typer.Option(help="Folder for model.gguf and Modelfile.", show_default=False)],
    name: Annotated[str | None, typer.Option(help="Name of the model in Ollama; default: the folder's.")] = None,
    dtype: Dtype = "q8_0",
    num_ctx: Annotated[int | None, typer.Option(min=1, help="Context; default: the model's, at most 8192.")] = None,
    template: Template = None,
    overwrite: Overwrite = False,
    force_template: ForceTemplate = False,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Write a GGUF file and the Modelfile with which Ollama lays out prompts as training did."""
    chosen = _dtype(dtype)
    from loratory.export.ollama import MAX_DEFAULT_CONTEXT, modelfile
    from loratory.run import write_text

    if (output / "Modelfile").exists() and not overwrite:
        raise RunError(f"{output / 'Modelfile'} exists already; choose another folder, or pass --overwrite")
    with _opened(
        source, template, output.absolute(), force_template=force_template, trust_remote_code=trust_remote_code
    ) as opened:
        tokenizer = opened.whole.tokenizer
        adds_bos = tokenizer("x")["input_ids"][:1] == [tokenizer.bos_token_id]
        frame = opened.frame.without_bos(tokenizer.bos_token if adds_bos else None)
        # Before the weights are written, so that a template that Ollama cannot carry costs nothing.
        longest = opened.whole.model.config.max_position_embeddings
        text = modelfile(
            "./model.gguf",
            frame,
            context_length=num_ctx or min(int(longest), MAX_DEFAULT_CONTEXT),
            system=opened.system,
            temperature=opened.temperature,
        )
        report = _write_gguf(opened, output / "model.gguf", chosen, overwrite=overwrite)
        write_text(output / "Modelfile", text)
    _print_report(report)
    typer.echo(f"Modelfile: {output / 'Modelfile'}")
    typer.echo(f"next: ollama create {name or output.name} -f {output / 'Modelfile'}")


def vllm(
    run: Run,
    output: Annotated[Path, typer.Option(help="Adapter folder to write.", show_default=False)],
    name: Annotated[str | None, typer.Option(help="Name that clients ask for; default: the run's.")] = None,
    max_model_len: Annotated[int | None, typer.Option(min=1, help="Longest conversation in tokens.")] = None,
    force_template: ForceTemplate = False,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Write the run's adapter as vLLM reads it, and print the command that serves it."""
    directory, config = open_run(run)
    from loratory.export.vllm import export_vllm_adapter, vllm_command

    served = name or config.run.name
    if config.adapter.method == "full":
        typer.echo(vllm_command(str(directory.final_model), name=served, max_model_len=max_model_len))
        return
    from loratory.model import load_tokenizer

    tokenizer = load_tokenizer(config.model, trust_remote_code=trust_remote_code)
    bound = _bound(config.data.template, tokenizer, None if force_template else directory.template)
    found = export_vllm_adapter(
        directory.final_model,
        output,
        base=config.model.model_name_or_path,
        name=served,
        chat_template=_own_chat_template(bound, tokenizer),
        max_model_len=max_model_len,
    )
    typer.echo(f"adapter: {output}")
    typer.echo(found.command)
    for sentence in found.notes:
        note(sentence)


def card(
    run: Run,
    output: Annotated[Path | None, typer.Option(help="File to write; default: RUN/final_model/README.md.")] = None,
    merged: Annotated[Path | None, typer.Option(help="A model merged from the run, for its certificate.")] = None,
    licence: Annotated[str | None, typer.Option("--license", help="Licence identifier, e.g. apache-2.0.")] = None,
) -> None:
    """Write the run's model card: data, settings, scores with intervals, certificate."""
    directory, config = open_run(run)
    from loratory.run import write_text

    file = output or directory.final_model / "README.md"
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, run_card(directory, config, merged, licence))
    typer.echo(f"card: {file}")


def hub(
    run: Run,
    repo_id: Annotated[str, typer.Option(help="USER/NAME on the hub.", show_default=False)],
    merged: Annotated[Path | None, typer.Option(help="Push this merged model instead of the adapter.")] = None,
    licence: Annotated[str | None, typer.Option("--license", help="Licence identifier for the card.")] = None,
    public: Annotated[bool, typer.Option("--public", help="Make a new repository public; default: private.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what would be sent.")] = False,
) -> None:
    """Push the run's adapter, with its model card, to the Hugging Face hub."""
    directory, config = open_run(run)
    from loratory.export.hub import hub_files, push_folder

    folder = merged or directory.final_model
    files = hub_files(folder)
    text = run_card(directory, config, merged, licence)
    for file in files:
        if file.name != "README.md":
            typer.echo(f"{file.num_bytes:>15,}  {file.name}")
    typer.echo(f"{len(text.encode()):>15,}  README.md (the model card)")
    if dry_run:
        typer.echo(f"nothing was sent: this would go to {repo_id} ({'public' if public else 'private'} when new)")
        return
    typer.echo(f"pushed: {push_folder(folder, repo_id, card=text, is_private=not public)}")


@dataclass(frozen=True, slots=True)
class _Opened:
    """A whole model with its template, ready to be exported."""

    whole: "WholeModel"
    template: "BoundTemplate"
    frame: "ConversationFrame"
    system: str | None
    temperature: float | None
    name: str


@contextmanager
def _opened(
    source: str, template: str | None, workdir: Path, *, force_template: bool, trust_remote_code: bool
) -> Iterator[_Opened]:
    from loratory.config import ModelConfig
    from loratory.export.conversation import conversation_frame
    from loratory.export.whole_model import whole_model

    base, adapter_dir, contract, system, temperature = ModelConfig(model_name_or_path=source), None, None, None, None
    chosen, name = template or "auto", Path(source).name
    if (Path(source) / "provenance.json").is_file():
        directory, config = open_run(Path(source))
        base, adapter_dir = _trained(directory, config)
        chosen, name, system = template or config.data.template, config.run.name, config.data.system
        contract = None if force_template else directory.template
        temperature = config.predict.temperature if config.predict.do_sample else 0.0
    with whole_model(
        base, adapter_dir, workdir=workdir, force_template=force_template, trust_remote_code=trust_remote_code
    ) as whole:
        for sentence in whole.notes:
            note(sentence)
        bound = _bound(chosen, whole.tokenizer, contract)
        frame = conversation_frame(bound, whole.tokenizer)
        yield _Opened(whole, bound, frame, system, temperature, name)


def _trained(directory: "RunDirectory", config: "RunConfig") -> "tuple[ModelConfig, Path | None]":
    if config.objective.name in ("reward", "classification"):
        raise ConfigError(
            f"{directory.path}: a {config.objective.name} model writes no answers; only others are exported"
        )
    if config.adapter.method != "full":
        return config.model, directory.final_model
    whole = {"model_name_or_path": str(directory.final_model), "gguf_file": None, "revision": None}
    return config.model.model_copy(update=whole | {"tokenizer_name_or_path": None}), None


def _bound(name: str, tokenizer: "PreTrainedTokenizerBase", contract: Path | None) -> "BoundTemplate":
    from loratory.data.templates import bind_template
    from loratory.infer.session import check_contract

    bound = bind_template(name, tokenizer)
    if contract is not None:
        check_contract(contract, bound.contract())
    return bound


def _own_chat_template(bound: "BoundTemplate", tokenizer: "PreTrainedTokenizerBase") -> str | None:
    """Jinja of a template that is not the tokenizer's own; None when it is."""
    from loratory.export.conversation import conversation_frame, to_jinja

    if bound.name == "chat":
        return None
    return to_jinja(conversation_frame(bound, tokenizer))


def _write_gguf(opened: _Opened, output: Path, dtype: "GgufDtype", *, overwrite: bool) -> "GgufReport":
    from loratory.data.chat_template import chat_template_source
    from loratory.export.gguf_file import export_gguf
    from loratory.run import write_text

    whole = opened.whole
    jinja = _own_chat_template(opened.template, whole.tokenizer) or chat_template_source(whole.tokenizer)
    report = export_gguf(
        whole.model,
        whole.tokenizer,
        output,
        template=opened.template,
        chat_template=jinja,
        dtype=dtype,
        overwrite=overwrite,
        name=opened.name,
    )
    text = json.dumps(report.to_json(), indent=2, ensure_ascii=False)
    write_text(output.with_suffix(".check.json"), text + "\n")
    return report


def _print_report(report: "GgufReport") -> None:
    measured = report.measured
    typer.echo(f"GGUF file: {report.path} ({report.architecture}, {report.dtype}, {report.num_bytes / 1e6:,.1f} MB)")
    typer.echo(
        f"read back: over {measured.num_positions} positions max |logit difference| "
        f"{measured.max_logit_difference:.3g} of {measured.logit_scale:.3g}, mean KL {measured.mean_kl_nats:.3g} nats, "
        f"same top token {measured.top1_agreement:.1%}"
    )
    same = "the same greedy answer" if report.answer == report.answer_of_file else "another greedy answer"
    typer.echo(f"asked {report.question!r}: {same} ({report.answer_of_file!r})")
    for sentence in report.notes:
        note(sentence)


def _dtype(given: str) -> "GgufDtype":
    from loratory.export.gguf_file import DTYPES

    for dtype in DTYPES:
        if dtype == given:
            return dtype
    raise ConfigError(f"--dtype: got {given!r}; allowed: {', '.join(DTYPES)}")
