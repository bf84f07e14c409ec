"""Arguments and options that several verbs share."""

from pathlib import Path
from typing import Annotated

import typer

RunFile = Annotated[Path, typer.Argument(metavar="RUN.yaml", help="The run file.", show_default=False)]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[SECTION.KEY=VALUE]...", help="Fields to override.", show_default=False),
]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.", show_default=False)]
TrustRemoteCode = Annotated[bool, typer.Option("--trust-remote-code", help="Run Python code from the model's folder.")]
ForceTemplate = Annotated[
    bool, typer.Option("--force-template", help="Go on with another template or tokenizer than was trained with.")
]
MaxNewTokens = Annotated[int | None, typer.Option(min=1, help="Longest answer in tokens.")]
Base = Annotated[bool, typer.Option("--base", help="Use the base model alone, without what was trained.")]
