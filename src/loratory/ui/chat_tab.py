"""The tab that talks with a run's model: the base and the adapter side by side."""

from collections.abc import Iterator
from typing import Any

from loratory.errors import LoratoryError
from loratory.ui.drawing import done_html, problem_html, talk_html
from loratory.ui.laboratory import Laboratory


def add_chat_tab(laboratory: Laboratory) -> Any:
    """Add the tab's content; returns what chooses the run."""
    import gradio as gr

    with gr.Row(equal_height=False):
        run = gr.Dropdown(list(laboratory.runs.names()), value=None, label="Run", elem_id="chat-run", scale=3)
        system = gr.Textbox(label="System prompt (empty: the run's own)", scale=4)
        tokens = gr.Number(
            128, minimum=1, maximum=4096, precision=0, label="Longest answer, tokens", scale=1, min_width=190
        )
        opening = gr.Button("Open", variant="primary", elem_id="chat-open", elem_classes="low", scale=0, min_width=100)
        closing = gr.Button("Close", elem_id="chat-close", elem_classes="low", scale=0, min_width=100)
    said = gr.HTML(js_on_load=None, apply_default_css=False, elem_id="chat-said")
    shown = gr.HTML(js_on_load=None, apply_default_css=False, elem_id="chat-shown")
    with gr.Row():
        question = gr.Textbox(show_label=False, placeholder="Ask both", elem_id="chat-question", scale=6)
        ask = gr.Button("Ask", variant="primary", elem_id="chat-ask", elem_classes="low", scale=0, min_width=100)
        forget = gr.Button("Forget", elem_id="chat-forget", elem_classes="low", scale=0, min_width=100)

    def open_run(name: str | None, system: str, tokens: int | None) -> list[Any]:
        try:
            laboratory.talk.open(laboratory.runs.path(name or ""), system=system, max_new_tokens=tokens or 128)
        except LoratoryError as error:
            return [problem_html(str(error)), ""]
        rest = "base and adapter answer" if laboratory.talk.has_base else "the trained model answers; it has no adapter"
        return [done_html(f"{name} is open: {rest}."), ""]

    def close_run() -> list[Any]:
        try:
            laboratory.talk.close()
        except LoratoryError as error:
            return [problem_html(str(error)), gr.skip()]
        return [done_html("Closed; its memory is free."), ""]

    def forget_all() -> list[Any]:
        try:
            laboratory.talk.forget()
        except LoratoryError as error:
            return [problem_html(str(error)), gr.skip()]
        return ["", ""]

    def say(text: str) -> Iterator[list[Any]]:
        try:
            for exchanges in laboratory.talk.ask(text):
                yield ["", "", talk_html(exchanges)]
        except LoratoryError as error:
            yield [problem_html(str(error)), gr.skip(), gr.skip()]

    private: dict[str, Any] = {"api_visibility": "private"}
    opening.click(open_run, [run, system, tokens], [said, shown], **private)
    closing.click(close_run, None, [said, shown], **private)
    forget.click(forget_all, None, [said, shown], **private)
    gr.on([ask.click, question.submit], say, question, [said, question, shown], show_progress="hidden", **private)
    return run
