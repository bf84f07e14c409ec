"""The page as a user has it: `loratory ui` in a process of its own, headless Chromium before it.

Screenshots of every step are written to the folder that LORATORY_SCREENSHOTS names, for people to look at.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from forged_runs import forge_run, with_faults
from loratory.run import writer_of
from tiny_run_file import run_file

webdriver = pytest.importorskip("selenium.webdriver", reason="browser test: selenium is not installed")
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
if BROWSER is None or DRIVER is None:
    pytest.skip(
        "browser test: needs Chromium and its driver (Debian: chromium, chromium-driver)", allow_module_level=True
    )

pytestmark = [
    pytest.mark.kill,
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning"),
]
# A machine under load is no fault of the code.
PATIENCE_S = 600.0
LABELS = [f"label{i % 3}" for i in range(60)]
CSS = "css selector"


@dataclass
class Page:
    """A page and the browser before it."""

    driver: Any
    folder: Path
    url: str

    def find(self, css: str, text: str = "") -> Any:
        """The first visible element that has the text; waits for it."""
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until:
            for element in self.driver.find_elements(CSS, css):
                try:
                    if element.is_displayed() and text in element.text:
                        return element
                except webdriver_errors().StaleElementReferenceException:
                    continue
            time.sleep(0.2)
        self.show("failure")
        raise AssertionError(f"no {css} with {text!r} on the page")

    def click(self, css: str, text: str = "") -> None:
        """Click an element; one that the page has just drawn anew is looked for again."""
        until = time.monotonic() + PATIENCE_S
        while True:
            try:
                self.find(css, text).click()
                return
            except (
                webdriver_errors().StaleElementReferenceException,
                webdriver_errors().ElementClickInterceptedException,
            ):
                assert time.monotonic() < until
                time.sleep(0.2)

    def tab(self, name: str) -> None:
        """Open a tab."""
        self.click("button[role=tab]", name)

    def choose(self, chooser: str, *names: str) -> None:
        """Choose runs by typing their names."""
        for name in names:
            self.find(f"#{chooser} input").send_keys(name)
            self.click("[role=option]", name)
        self.find(f"#{chooser} input").send_keys("\ue00c")

    def write(self, text: str) -> None:
        """Replace the run file."""
        editor = self.find("#draft .cm-content")
        editor.click()
        editor.send_keys("\ue009a\ue000")
        editor.send_keys("\ue017")
        self.driver.execute_cdp_cmd("Input.insertText", {"text": text})

    def show(self, name: str) -> None:
        """Keep a screenshot where somebody wants to look at it."""
        folder = os.environ.get("LORATORY_SCREENSHOTS")
        if folder:
            height = self.driver.execute_script("return document.documentElement.scrollHeight")
            self.driver.set_window_size(1400, max(900, height + 140))
            time.sleep(0.5)
            self.driver.save_screenshot(str(Path(folder) / f"{name}.png"))


def webdriver_errors() -> Any:
    """Selenium's exceptions."""
    from selenium.common import exceptions

    return exceptions


def open_browser() -> Any:
    """Headless Chromium that writes down what it fetches."""
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for argument in (
        "--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-background-networking",
        "--disable-component-update", "--no-first-run", "--window-size=1400,1000",
    ):  # fmt: skip
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))


@pytest.fixture
def page(tmp_path: Path, trained: Path) -> Iterator[Page]:
    """A page over two forged runs and a trained one."""
    folder = tmp_path / "outputs"
    forge_run(folder / "good", with_faults(LABELS, range(4)), LABELS, base=["nothing"] * 60)
    forge_run(folder / "poor", with_faults(LABELS, range(40)), LABELS, rank=2)
    shutil.copytree(trained / "first", folder / "first")
    process = subprocess.Popen(
        [sys.executable, "-m", "loratory", "ui", str(folder), "--port", "0"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )
    driver = None
    try:
        assert process.stdout is not None
        url = re.fullmatch(r"open (http://127\.0\.0\.1:\d+/\?key=sk-\S+)\n", process.stdout.readline())
        assert url is not None
        driver = open_browser()
        driver.get(url[1])
        yield Page(driver, folder, url[1])
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        assert "training that was started goes on" in process.stdout.read()
    finally:
        if driver is not None:
            driver.quit()
        process.kill()
        process.communicate()
        for path in folder.iterdir():
            writer = writer_of(path)
            if writer is not None and writer.pid is not None:
                os.kill(writer.pid, signal.SIGKILL)


def wait_for(what: Callable[[], bool]) -> None:
    """Wait until something is so."""
    until = time.monotonic() + PATIENCE_S
    while not what():
        assert time.monotonic() < until
        time.sleep(0.2)


def test_a_user_goes_through_the_page(page: Page, tmp_path: Path, tiny_llama_dir: Path) -> None:
    page.find("[data-run=good]")
    assert "key" not in page.driver.current_url
    page.click("[data-run=first]")
    page.find("#run-detail h2", "first")
    page.find("#run-detail figcaption", "Training loss, now")
    page.show("run")

    page.tab("Compare")
    page.choose("compare-runs", "good", "poor")
    page.click("button#compare")
    page.find("#comparison .verdict", "good better than poor by 60.0")
    page.show("compare")

    page.tab("Predictions")
    page.choose("answer-runs", "good", "poor")
    page.find("#answers-shown [role=status]", "60 of 60 rows")
    page.find("#answer-search textarea, #answer-search input").send_keys("Question 41 of")
    page.find("#answers-shown [role=status]", "1 of 60 rows")
    assert page.find("#answers-shown tbody tr").text.split() == [
        "42",
        "Question",
        "41",
        "of",
        "label2?",
        "label2",
        "nothing",
        "label2",
        "label2",
    ]
    page.show("predictions")

    page.tab("New run")
    text = run_file(tmp_path, tiny_llama_dir, "fresh", max_steps=100_000)
    page.write(text.replace("learning_rate", "lerning_rate"))
    page.find("#faults li", "Did you mean 'train.learning_rate'")
    page.write(text)
    page.find("#faults .good", "No faults")
    page.click("button#plan")
    page.find("#plan-shown caption", "Memory at the peak")
    page.show("plan")
    page.click("button#start")
    page.find("#plan-shown .good", "fresh was started")

    page.tab("Runs")
    page.click("[data-run=fresh]")
    page.find("#run-detail .state", "running")
    page.find("#run-detail figcaption", "Training loss, now")
    page.show("running")
    before = page.find("#run-detail").text
    wait_for(lambda: page.find("#run-detail").text != before)
    page.click("button#stop")
    page.find("#run-detail .state", "stopped")
    page.find("#run-detail", "everything is saved")
    page.show("stopped")
    page.click("button#resume")
    page.find("#run-detail .state", "running")

    page.tab("Chat")
    page.choose("chat-run", "first")
    page.click("button#chat-open")
    page.find("#chat-said", "base and adapter answer")
    page.find("#chat-question textarea").send_keys("question 1 <b>bold</b>")
    page.click("button#chat-ask")
    page.find("#chat-shown .question", "question 1 <b>bold</b>")
    wait_for(lambda: len(page.driver.find_elements(CSS, "#chat-shown .side p")) == 2)
    page.show("chat")
    fetched_from_elsewhere_is_nothing(page)


def fetched_from_elsewhere_is_nothing(page: Page) -> None:
    """Every request of the browser's page went to the page's own server, and no script failed."""
    own = urlsplit(page.url).netloc
    events = [json.loads(entry["message"])["message"] for entry in page.driver.get_log("performance")]
    asked = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    assert len(asked) > 10
    assert {urlsplit(url).netloc for url in asked if url.startswith("http")} == {own}
    # The web manifest is asked for without cookies, by Chromium's design; the page works without it.
    loud = [entry["message"] for entry in page.driver.get_log("browser") if entry["level"] == "SEVERE"]
    assert [message for message in loud if "manifest" not in message.lower()] == []
