"""The tab that talks with a run's model: the base and the adapter side by side."""

from collections.abc import Iterator, Sequence
from typing import Any

from loratory.errors import LoratoryError
from loratory.ui.drawing import done_html, problem_html
from loratory.ui.laboratory import Laboratory
from loratory.ui.talk import Exchange, Talk


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
    with gr.Row():
        base = _panel("Base", "chat-base")
        adapter = _panel("Adapter", "chat-adapter")
    with gr.Row():
        question = gr.Textbox(show_label=False, placeholder="Ask both", elem_id="chat-question", scale=6)
        ask = gr.Button("Ask", variant="primary", elem_id="chat-ask", elem_classes="low", scale=0, min_width=100)
        forget = gr.Button("Forget", elem_id="chat-forget", elem_classes="low", scale=0, min_width=100)
    panels = [base, adapter]

    def open_run(name: str | None, system: str, tokens: int | None) -> list[Any]:
        try:
            laboratory.talk.open(laboratory.runs.path(name or ""), system=system, max_new_tokens=tokens or 128)
        except LoratoryError as error:
            return [problem_html(str(error)), [], []]
        rest = "base and adapter answer" if laboratory.talk.has_base else "the trained model answers; it has no adapter"
        return [done_html(f"{name} is open: {rest}."), *shown((), laboratory.talk)]

    def close_run() -> list[Any]:
        try:
            laboratory.talk.close()
        except LoratoryError as error:
            return [problem_html(str(error)), gr.skip(), gr.skip()]
        return [done_html("Closed; its memory is free."), [], []]

    def forget_all() -> list[Any]:
        try:
            laboratory.talk.forget()
        except LoratoryError as error:
            return [problem_html(str(error)), gr.skip(), gr.skip()]
        return ["", [], []]

    def say(text: str) -> Iterator[list[Any]]:
        try:
            for exchanges in laboratory.talk.ask(text):
                yield ["", "", *shown(exchanges, laboratory.talk)]
        except LoratoryError as error:
            yield [problem_html(str(error)), gr.skip(), gr.skip(), gr.skip()]

    private: dict[str, Any] = {"api_visibility": "private"}
    opening.click(open_run, [run, system, tokens], [said, *panels], **private)
    closing.click(close_run, None, [said, *panels], **private)
    forget.click(forget_all, None, [said, *panels], **private)
    gr.on([ask.click, question.submit], say, question, [said, question, *panels], show_progress="hidden", **private)
    return run


def _panel(label: str, elem_id: str) -> Any:
    import gradio as gr

    # Plain text: what a model says is shown as it is, never read as markup.
    return gr.Chatbot(
        label=label,
        elem_id=elem_id,
        height=420,
        render_markdown=False,
        buttons=[],
        feedback_options=None,
        layout="bubble",
    )


def shown(exchanges: Sequence[Exchange], talk: Talk) -> list[Any]:
    """The conversation for the two panels; the base's is empty where there is none."""
    import gradio as gr

    sides = ([each.base or "" for each in exchanges], [each.answer for each in exchanges])
    panels = [
        [
            message
            for exchange, answer in zip(exchanges, side, strict=True)
            for message in (
                {"role": "user", "content": exchange.question},
                {"role": "assistant", "content": answer or "…"},
            )
        ]
        for side in sides
    ]
    return [gr.update(value=panels[0] if talk.has_base else [], visible=talk.has_base), gr.update(value=panels[1])]
