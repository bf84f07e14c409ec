"""The tab that compares runs on the rows that all of them answered."""

from typing import Any
from urllib.parse import urlencode

from loratory.errors import LoratoryError
from loratory.ui.drawing import comparison_html, problem_html
from loratory.ui.laboratory import Laboratory


def add_compare_tab(laboratory: Laboratory) -> Any:
    """Add the tab's content; returns what chooses the runs."""
    import gradio as gr

    with gr.Row(equal_height=False):
        runs = gr.Dropdown(
            list(laboratory.runs.names()), multiselect=True, label="Runs", elem_id="compare-runs", scale=4
        )
        go = gr.Button("Compare", variant="primary", elem_id="compare", elem_classes="low", scale=0, min_width=140)
        report = gr.Button(
            "Report", link_target="_blank", interactive=False, elem_classes="low", scale=0, min_width=140
        )
    shown = gr.HTML(js_on_load=None, apply_default_css=False, elem_id="comparison")

    def compare(names: list[str] | None) -> list[Any]:
        if not names:
            return [problem_html("choose two runs or more"), gr.update(interactive=False)]
        try:
            found = comparison_html(laboratory.compare(names))
        except LoratoryError as error:
            return [problem_html(str(error)), gr.update(interactive=False)]
        link = f"/report?{urlencode([('run', name) for name in names])}"
        return [found, gr.update(interactive=True, link=link)]

    go.click(compare, runs, [shown, report], api_visibility="private")
    return runs
