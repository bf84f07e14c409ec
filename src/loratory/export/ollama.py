"""An Ollama Modelfile: the GGUF file, the template in Go's form, the stop texts and the context."""

from loratory.errors import TemplateError
from loratory.export.conversation import ConversationFrame, to_go

MAX_DEFAULT_CONTEXT = 8192
_QUOTES = '"""'


def modelfile(
    gguf: str,
    frame: ConversationFrame,
    *,
    context_length: int,
    system: str | None = None,
    temperature: float | None = None,
    licence: str | None = None,
) -> str:
    """The text of a Modelfile.

    Args:
        gguf: Path of the GGUF file, seen from the Modelfile's folder.
        frame: The template, without the BOS that Ollama puts there itself.
        context_length: Value of num_ctx.
        system: System text of conversations that bring none.
        temperature: 0 takes the likeliest token; None leaves Ollama's default.
        licence: Text of the licence.

    Raises:
        TemplateError: A text holds three quotation marks, which a Modelfile cannot carry, or there is a system text
            and the template knows none.
    """
    if system is not None and frame.system_start is None:
        raise TemplateError("the template knows no system text, and there is one (data.system)")
    parts = [f"FROM {gguf}", f"TEMPLATE {_quoted(to_go(frame))}"]
    if system is not None:
        parts.append(f"SYSTEM {_quoted(system)}")
    parts += [f'PARAMETER stop "{stop}"' for stop in frame.stop_texts]
    parts.append(f"PARAMETER num_ctx {context_length}")
    if temperature is not None:
        parts.append(f"PARAMETER temperature {temperature:g}")
    if licence is not None:
        parts.append(f"LICENSE {_quoted(licence)}")
    return "\n".join(parts) + "\n"


def _quoted(text: str) -> str:
    if _QUOTES in text or text.endswith('"'):
        raise TemplateError(f"a Modelfile cannot carry a text with {_QUOTES} or a quotation mark at its end: {text!r}")
    return f"{_QUOTES}{text}{_QUOTES}"
