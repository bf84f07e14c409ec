"""The tab that writes a run file: its faults while it is typed, its plan, and the start."""

from typing import Any

from loratory.errors import LoratoryError
from loratory.ui.draft import faults, plan_draft
from loratory.ui.drawing import done_html, faults_html, plan_html, problem_html
from loratory.ui.laboratory import Laboratory

HINT = (
    "Paths are meant from the folder that <code>loratory ui</code> was started in. Code from a model's folder is not "
    "run from here; for that, and for a reward function, use the command line."
)


def add_draft_tab(laboratory: Laboratory) -> Any:
    """Add the tab's content; returns what chooses the run to begin from."""
    import gradio as gr

    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=380):
            names = list(laboratory.runs.names())
            origin = gr.Dropdown(names, value=None, label="Begin with the run file of", elem_id="origin")
            blank = laboratory.draft(None)
            text = gr.Code(blank, language="yaml", label="Run file", lines=22, max_lines=40, elem_id="draft")
            with gr.Row():
                plan = gr.Button("Plan", elem_id="plan")
                start = gr.Button("Start", variant="primary", elem_id="start")
            gr.HTML(f'<div class="lab"><p class="soft">{HINT}</p></div>', js_on_load=None, apply_default_css=False)
        with gr.Column(scale=3, min_width=420):
            found = gr.HTML(js_on_load=None, apply_default_css=False, elem_id="faults")
            shown = gr.HTML(js_on_load=None, apply_default_css=False, elem_id="plan-shown")

    def begin(name: str | None) -> Any:
        try:
            return laboratory.draft(name)
        except LoratoryError:
            return gr.skip()

    def show_plan(text: str) -> str:
        try:
            return plan_html(*plan_draft(text, may_calibrate=laboratory.jobs.num_alive() == 0))
        except LoratoryError as error:
            return problem_html(str(error))

    def launch(text: str) -> str:
        try:
            name = laboratory.jobs.start(text)
        except LoratoryError as error:
            return problem_html(str(error))
        return done_html(f"{name} was started; it is in the list under Runs. Closing this page does not stop it.")

    quick: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", "trigger_mode": "always_last"}
    origin.input(begin, origin, text, **quick)
    text.change(lambda text: [faults_html(faults(text)), ""], text, [found, shown], **quick)
    plan.click(show_plan, text, shown, api_visibility="private")
    start.click(launch, text, shown, api_visibility="private")
    return origin
