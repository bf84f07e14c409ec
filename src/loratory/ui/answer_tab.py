"""The tab that browses predictions: label and answers of runs beside each other."""

from typing import Any

from loratory.errors import LoratoryError
from loratory.ui.answers import FILTERS
from loratory.ui.drawing import answers_html, problem_html
from loratory.ui.laboratory import Laboratory


def add_answer_tab(laboratory: Laboratory) -> Any:
    """Add the tab's content; returns what chooses the runs."""
    import gradio as gr

    with gr.Row():
        runs = gr.Dropdown(
            list(laboratory.runs.names()), multiselect=True, label="Runs", elem_id="answer-runs", scale=3
        )
        wanted = gr.Dropdown(list(FILTERS), value=FILTERS[0], label="Rows", elem_id="answer-filter", scale=1)
        words = gr.Textbox(label="Search", elem_id="answer-search", scale=2)
        page = gr.Number(1, label="Page", minimum=1, precision=0, elem_id="answer-page", scale=0, min_width=110)
    shown = gr.HTML(js_on_load=None, apply_default_css=False, elem_id="answers-shown")

    def find(names: list[str] | None, wanted: str, words: str, page: int | None) -> str:
        if not names:
            return problem_html("choose one or more runs that have predictions")
        try:
            return answers_html(laboratory.answers(names).find(wanted, words, page=page or 1))
        except LoratoryError as error:
            return problem_html(str(error))

    def again(names: list[str] | None, wanted: str, words: str) -> list[Any]:
        return [find(names, wanted, words, 1), 1]

    options: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", "trigger_mode": "always_last"}
    gr.on([runs.change, wanted.change, words.change], again, [runs, wanted, words], [shown, page], **options)
    page.input(find, [runs, wanted, words, page], shown, **options)
    return runs
