"""The verb that opens the local page over a folder of runs."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from loratory.errors import ConfigError


def ui(
    folder: Annotated[Path, typer.Argument(metavar="[FOLDER]", help="Folder of run directories.")] = Path("outputs"),
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 7860,
    key_file: Annotated[Path | None, typer.Option(help="File with the key; default: a new one, printed.")] = None,
    allowed_host: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Host name that browsers may use.")
    ] = None,
) -> None:
    """Open a local page: runs, live curves, compare, predictions, plan, start, stop, chat."""
    from loratory.infer.server.key import new_key, read_key
    from loratory.infer.server.process import is_loopback, open_socket

    if key_file is None and not is_loopback(host):
        raise ConfigError(f"--host {host} can be reached from other machines, which needs a key: --key-file FILE")
    key = new_key() if key_file is None else read_key(key_file, option="--key-file")
    from loratory.ui.site import guarded_site, serve_site

    listener = open_socket(host, port)
    own_port = listener.getsockname()[1]
    door, _ = guarded_site(folder, key=key, host=host, port=own_port, allowed_hosts=allowed_host or ())
    shown_host = f"[{host}]" if ":" in host else host
    typer.echo(f"open http://{shown_host}:{own_port}/?key={key if key_file is None else 'KEY'}")
    sys.stdout.flush()
    serve_site(door, listener)
    typer.echo("closed; training that was started goes on")
