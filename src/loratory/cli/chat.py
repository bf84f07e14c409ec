"""The verbs that talk with finished runs: chat, and compare-chat side by side."""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loratory.cli.arguments import Base, ForceTemplate, MaxNewTokens, RunFolder, TrustRemoteCode
from loratory.cli.console import note, say
from loratory.engine.finished_run import open_chat
from loratory.errors import ConfigError, UserError, suggest

if TYPE_CHECKING:
    from loratory.infer.chat import Chat

HELP = """\
/adapter      the adapter answers           /system TEXT  another system prompt; without TEXT none
/base         the base answers              /reset        forget the conversation
/both [TEXT]  both answer: TEXT, or from    /history      show the conversation
              now on every question         /save FILE    write it as a row of training data
/help         this list                     /exit         leave (also Ctrl-D); Ctrl-C stops an answer"""
COMMANDS = ("/adapter", "/base", "/both", "/help", "/system", "/reset", "/history", "/save", "/exit")
System = Annotated[str | None, typer.Option(help="System prompt; default: data.system of the run.")]


def chat(
    run: RunFolder,
    max_new_tokens: MaxNewTokens = None,
    system: System = None,
    base: Base = False,
    force_template: ForceTemplate = False,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Talk to the trained model. /base, /adapter and /both choose who answers; /help lists the commands."""
    talk = open_chat(
        run,
        max_new_tokens=max_new_tokens,
        system=system,
        base=base,
        force_template=force_template,
        trust_remote_code=trust_remote_code,
    )
    if sys.stdin.isatty():
        typer.echo(HELP, err=True)
    _Conversation(talk).run()


def compare_chat(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run directories.", show_default=False)],
    question: Annotated[
        list[str] | None,
        typer.Option(help="Ask this and leave; several are asked apart from each other.", show_default=False),
    ] = None,
    max_new_tokens: MaxNewTokens = None,
    system: System = None,
    force_template: ForceTemplate = False,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Ask several runs the same, answers side by side; a single run is compared with its base."""
    talks = {
        str(run): open_chat(
            run,
            max_new_tokens=max_new_tokens,
            system=system,
            base=False,
            force_template=force_template,
            trust_remote_code=trust_remote_code,
        )
        for run in runs
    }
    if len(talks) == 1 and len(runs) > 1:
        raise ConfigError(f"compare-chat: {runs[0]} is given {len(runs)} times; give different runs, or it once")
    for line in question if question is not None else _lines_of_user():
        if line == "/exit":
            break
        if line == "/reset" or question is not None:
            # Else the base would read the adapter's earlier answers and repeat them.
            for talk in talks.values():
                talk.reset()
        if line == "/reset":
            continue
        try:
            answers = _ask_all(talks, line)
        except UserError as error:
            say("error", str(error), colour=typer.colors.RED)
        except KeyboardInterrupt:
            typer.echo("[stopped]", err=True)
        else:
            _print_answers(line, answers)


@dataclass(slots=True)
class _Conversation:
    """A chat driven by lines: questions and commands. A mistake is told and the talk goes on."""

    talk: "Chat"
    both: bool = False

    def run(self) -> None:
        """Answer until the end of input or /exit."""
        for line in _lines_of_user():
            if line == "/exit":
                return
            try:
                self._obey(line) if line.startswith("/") else self._answer(line, both=self.both)
            except UserError as error:
                say("error", str(error), colour=typer.colors.RED)
            except KeyboardInterrupt:
                typer.echo("\n[stopped]", err=True)

    def _obey(self, line: str) -> None:
        command, _, rest = line.partition(" ")
        rest = rest.strip()
        match command:
            case "/help":
                typer.echo(HELP)
            case "/reset":
                self.talk.reset()
            case "/base" | "/adapter":
                self.talk.use_adapter = command == "/adapter"
                self.both = False
            case "/both" if rest:
                self._answer(rest, both=True)
            case "/both":
                self.talk.use_adapter = True
                self.both = True
            case "/system":
                self.talk.set_system(rest or None)
            case "/history":
                for turn in self.talk.history:
                    typer.echo(f"{turn.role}: {turn.content}")
            case "/save" if rest:
                self._save(Path(rest))
            case "/save":
                raise ConfigError("/save: needs the name of a file, e.g. /save talk.json")
            case _:
                raise ConfigError(
                    f"{command}: no such command.{suggest(command, COMMANDS)} They are {', '.join(COMMANDS)}"
                )

    def _answer(self, text: str, *, both: bool) -> None:
        if not both:
            self.talk.say(text, on_text=_print_piece, on_forgotten=_say_forgotten)
            typer.echo()
            return
        shown: list[str] = []

        def show(name: str, piece: str) -> None:
            if name not in shown:
                typer.echo(f"{'' if not shown else chr(10)}{name}: ", nl=False)
                shown.append(name)
            _print_piece(piece)

        self.talk.say_both(text, show, on_forgotten=_say_forgotten)
        typer.echo()

    def _save(self, file: Path) -> None:
        from loratory.run import write_text

        row = {"messages": [{"role": turn.role, "content": turn.content} for turn in self.talk.history]}
        try:
            write_text(file, json.dumps([row], indent=2, ensure_ascii=False) + "\n")
        except OSError as error:
            raise ConfigError(f"/save: {file} cannot be written ({error.strerror})") from error
        note(f"saved {len(row['messages'])} turns in {file}")


def _print_piece(piece: str) -> None:
    typer.echo(piece, nl=False)
    sys.stdout.flush()


def _say_forgotten(num_turns: int) -> None:
    note(f"the conversation no longer fits the model's context: its oldest {num_turns} turns are forgotten")


def _ask_all(talks: "dict[str, Chat]", text: str) -> list[tuple[str, str]]:
    if len(talks) == 1:
        (talk,) = talks.values()
        base, adapter = talk.say_both(text, on_forgotten=_say_forgotten)
        return [("base", base), ("adapter", adapter)]
    return [(name, talk.say(text, on_forgotten=_say_forgotten)) for name, talk in talks.items()]


def _print_answers(question: str, answers: Sequence[tuple[str, str]]) -> None:
    """Columns in a terminal, else one labelled answer after the other."""
    if not sys.stdout.isatty():
        typer.echo(f"question: {question}")
        for name, answer in answers:
            typer.echo(f"{name}: {answer}")
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(question), expand=True)
    for name, _ in answers:
        table.add_column(Text(name), ratio=1, overflow="fold")
    # Text: what a model says is shown as it is, never read as markup.
    table.add_row(*(Text(answer) for _, answer in answers))
    Console().print(table)


def _lines_of_user() -> Iterator[str]:
    """What the user types, line by line, until the end of input; empty lines are passed over."""
    is_terminal = sys.stdin.isatty()
    if is_terminal:
        # Importing it gives input() line editing and a history.
        import readline  # noqa: F401
    while True:
        try:
            line = input("> ") if is_terminal else sys.stdin.readline()
        except EOFError:
            return
        except KeyboardInterrupt:
            typer.echo("\n(Ctrl-D or /exit leaves)", err=True)
            continue
        if not line and not is_terminal:
            return
        if line.strip():
            yield line.strip()
