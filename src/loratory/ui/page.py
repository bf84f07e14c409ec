"""The page: five tabs over one laboratory. It places what others read and draw, and decides nothing."""

from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from loratory.report.page import packed_text
from loratory.ui.answer_tab import add_answer_tab
from loratory.ui.chat_tab import add_chat_tab
from loratory.ui.compare_tab import add_compare_tab
from loratory.ui.draft_tab import add_draft_tab
from loratory.ui.laboratory import Laboratory
from loratory.ui.run_tab import add_run_tab

if TYPE_CHECKING:
    import gradio as gr

REFRESH_S = 2.0
FONTS = ("system-ui", "-apple-system", "Segoe UI", "Noto Sans", "sans-serif")
CODE_FONTS = ("ui-monospace", "SFMono-Regular", "DejaVu Sans Mono", "monospace")


def make_page(laboratory: Laboratory) -> "gr.Blocks":
    """The page's blocks."""
    import gradio as gr

    with gr.Blocks(title="loratory", analytics_enabled=False, fill_width=True) as page:
        gr.HTML(_heading(laboratory), js_on_load=None, apply_default_css=False)
        timer = gr.Timer(REFRESH_S)
        names = gr.State(list(laboratory.runs.names()))
        choosers: list[Any] = []
        with gr.Tabs():
            with gr.Tab("Runs", id="runs"):
                add_run_tab(laboratory, page, timer)
            with gr.Tab("Compare", id="compare"):
                choosers.append(add_compare_tab(laboratory))
            with gr.Tab("Predictions", id="predictions"):
                choosers.append(add_answer_tab(laboratory))
            with gr.Tab("New run", id="new"):
                choosers.append(add_draft_tab(laboratory))
            with gr.Tab("Chat", id="chat"):
                choosers.append(add_chat_tab(laboratory))
        _keep_choices(laboratory, page, timer, names, choosers)
    found: gr.Blocks = page
    return found


def _keep_choices(
    laboratory: Laboratory, page: "gr.Blocks", timer: "gr.Timer", names: Any, choosers: list[Any]
) -> None:
    """New runs appear in the choices of every tab; nothing is touched while there are none."""
    import gradio as gr

    def choices(known: list[str]) -> list[Any]:
        found = list(laboratory.runs.names())
        if found == known:
            return [gr.skip()] * (1 + len(choosers))
        return [found, *(gr.update(choices=found) for _ in choosers)]

    options: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "concurrency_limit": None}
    timer.tick(choices, names, [names, *choosers], **options)
    page.load(choices, gr.State([]), [names, *choosers], **options)


def _heading(laboratory: Laboratory) -> str:
    folder = escape(str(laboratory.runs.folder))
    return f'<div class="lab top"><h1>loratory</h1><p class="soft">runs in <code>{folder}</code></p></div>'


def page_theme() -> Any:
    """Fonts of the machine: none is fetched."""
    import gradio as gr

    return gr.themes.Base(
        primary_hue=gr.themes.colors.blue,
        neutral_hue=gr.themes.colors.gray,
        font=[gr.themes.Font(name) for name in FONTS],
        font_mono=[gr.themes.Font(name) for name in CODE_FONTS],
        radius_size=gr.themes.sizes.radius_sm,
    )


def page_head() -> str:
    """The page's style: that of the reports inside `.lab`, and little else."""
    own = files("loratory.ui").joinpath("page.css").read_text(encoding="utf-8")
    return f"<style>{own}\n.lab {{\n{packed_text('marks.css')}}}</style>"
