"""The tab of runs: the list, and the chosen run with its curves, its log and its buttons."""

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from loratory.errors import LoratoryError
from loratory.ui.drawing import done_html, list_html, now, problem_html, run_html
from loratory.ui.laboratory import Laboratory

if TYPE_CHECKING:
    import gradio as gr

# A click on a run's name tells the page which one; other clicks tell nothing.
CHOOSE = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-run]');
  if (button) trigger('click', { run: button.dataset.run });
});
"""
QUICK: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "concurrency_limit": None}


def add_run_tab(laboratory: Laboratory, page: "gr.Blocks", timer: "gr.Timer") -> None:
    """Add the tab's content.

    Args:
        laboratory: What it stands on.
        page: The page, for its loading.
        timer: When to look again.
    """
    import gradio as gr

    chosen = gr.State(None)
    listed = gr.HTML(js_on_load=CHOOSE, apply_default_css=False, elem_id="run-list")
    with gr.Column(visible=False) as detail:
        shown = gr.HTML(js_on_load=None, apply_default_css=False, elem_id="run-detail")
        with gr.Row():
            stop = gr.Button("Stop", variant="stop", elem_id="stop", scale=0, min_width=120)
            resume = gr.Button("Resume", variant="primary", elem_id="resume", scale=0, min_width=120)
            report = gr.Button("Report", link="/report", link_target="_blank", elem_id="report", scale=0, min_width=120)
        said = gr.HTML(js_on_load=None, apply_default_css=False, elem_id="run-said")
        with gr.Accordion("Output of the training process", open=False):
            log = gr.Textbox(show_label=False, lines=12, max_lines=24, interactive=False, elem_id="run-log")
        with gr.Accordion("Run file", open=False):
            file = gr.Code(language="yaml", show_label=False, interactive=False, max_lines=30)
    view = [listed, detail, shown, stop, resume, report, log]

    def look(name: str | None) -> list[Any]:
        return look_at(laboratory, name)

    def choose(event: gr.EventData) -> list[Any]:
        name = str(getattr(event, "run", ""))
        try:
            text = laboratory.runs.config_text(name)
        except LoratoryError as error:
            return [None, problem_html(str(error)), "", *look(None)]
        return [name, "", text, *look(name)]

    def act(name: str | None, verb: str) -> list[Any]:
        return [said_after(laboratory, name, verb), *look(name)]

    page.load(look, chosen, view, **QUICK)
    timer.tick(look, chosen, view, **QUICK)
    listed.click(choose, None, [chosen, said, file, *view], **QUICK)
    stop.click(lambda name: act(name, "stop"), chosen, [said, *view], **QUICK)
    resume.click(lambda name: act(name, "resume"), chosen, [said, *view], **QUICK)


def look_at(laboratory: Laboratory, name: str | None) -> list[Any]:
    """List, chosen run and buttons as they are now."""
    import gradio as gr

    rows = laboratory.jobs.rows()
    row = next((each for each in rows if each.name == name), None)
    listed = list_html(rows, chosen=name, now_s=now())
    if row is None:
        return [listed, gr.update(visible=False), *[gr.skip()] * 5]
    return [
        listed,
        gr.update(visible=True),
        run_html(row, laboratory.runs.metrics(row.name)),
        gr.update(interactive=row.state in ("starting", "running")),
        gr.update(interactive=row.state in ("stopped", "failed")),
        gr.update(interactive=bool(row.latest), link=f"/report?run={quote(row.name)}"),
        laboratory.runs.log(row.name) or "This page did not start the run, so it kept no output of it.",
    ]


def said_after(laboratory: Laboratory, name: str | None, verb: str) -> str:
    """Stop or resume a run; what to say about it."""
    if name is None:
        return problem_html("choose a run first")
    try:
        if verb == "stop":
            laboratory.jobs.stop(name)
            return done_html(f"{name} finishes its step, saves, and leaves.")
        laboratory.jobs.resume(name)
        return done_html(f"{name} goes on from its newest checkpoint.")
    except LoratoryError as error:
        return problem_html(str(error))
