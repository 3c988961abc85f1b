"""`ampflow ui` as a person sees it, in headless Chromium."""

from __future__ import annotations

import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, TimeoutError, expect, sync_playwright
from ui_process import TINY, running_ui

from ampflow.demo import write_demo

CHROMIUM = shutil.which("chromium")
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
PAGE_MS = 90_000  # for a page to show what it should: Prefect's lists ask anew after 30 s only
RUN_MS = 180_000  # for a run to be completed

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the path"),
]


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1300, "height": 1400})
        page.set_default_timeout(PAGE_MS)
        expect.set_options(timeout=PAGE_MS)
        yield page
        page.screenshot(path=tmp_path / "last-page.png")  # to look at after a failure
        browser.close()


def test_runs_are_started_from_the_form_and_seen(
    environment: dict[str, str], tmp_path: Path, page: Page
) -> None:
    # In one visit, as starting takes long: a run from the form with its page, a second run that
    # computes nothing, and nothing left after the end.
    write_demo(tmp_path / "structures.traj", count=40)
    (tmp_path / "tiny.toml").write_text(TINY.format(epochs=3, trials=1))
    home = {"PREFECT_HOME": str(tmp_path / "home")}
    with running_ui(tmp_path, environment | home, "tiny.toml") as ui:
        page.goto(ui.address)
        start_from_form(page, "first")
        tasks = tab(page, "Task Runs")
        for step in ("Fingerprints", "Split", "Study", "Winner", "Report"):
            expect(tasks).to_contain_text(re.compile(rf"{step}\S*\s*Completed"))
        artifacts = tab(page, "Artifacts")
        for key in ("fingerprints", "results", "report"):
            expect(artifacts.get_by_text(key, exact=True)).to_be_visible()
        open_artifact(page, "results")
        expect(page.get_by_role("table").first).to_contain_text("linear reference")

        page.get_by_role("link", name="first", exact=True).click()
        tab(page, "Subflow Runs").get_by_role("link").nth(1).click()
        expect(tab(page, "Task Runs")).to_contain_text(re.compile(r"worker 1\s*Completed"))
        open_artifact(page, "trials")
        table = page.get_by_role("table")
        expect(table).to_contain_text("num_nodes")
        expect(table.get_by_role("row")).to_have_count(1 + 2)

        start_from_form(page, "second")
        tasks = tab(page, "Task Runs")
        for step in ("Fingerprints", "Split", "Winner", "Report"):
            expect(tasks).to_contain_text(re.compile(rf"{step}\S*\s*Cached"))
        expect(page.get_by_role("main")).not_to_contain_text("Tuning")  # no trial was left

        family = ui.family()
        ui.process.send_signal(signal.SIGTERM)
        assert ui.wait() == 0
        assert not [process for process in family if process.is_running()]


def start_from_form(page: Page, name: str) -> None:
    """Start the pipeline with two trials, and wait on its page until it is completed."""
    page.get_by_role("link", name="Deployments").first.click()
    page.get_by_role("link", name="pipeline", exact=True).first.click()
    page.get_by_role("button", name="Run").first.click()
    page.get_by_role("menuitem", name="Custom run").click()
    trials = page.get_by_label("Trials")
    expect(trials).to_have_value("1")  # as in the file
    expect(page.get_by_text("The search for the best hyperparameters (Optuna).")).to_be_visible()
    trials.fill("2")
    page.get_by_label("Run Name").fill(name)
    submit = page.get_by_role("button", name="Submit")
    submit.scroll_into_view_if_needed()
    expect(page.get_by_text('"batch_size"')).to_be_visible()
    # While the editor of the search space is drawn, which moves the button, clicks are lost.
    for last in (False, False, True):
        try:
            with page.expect_request("**/create_flow_run", timeout=PAGE_MS if last else 10_000):
                submit.click()
            break
        except TimeoutError:
            if last:
                raise
    # The list may have been read before the run was in it; the message goes after seconds.
    message = page.get_by_role("link", name="View run")
    page.get_by_role("link", name=name, exact=True).or_(message).first.click()
    expect(page.get_by_role("main")).to_contain_text(
        re.compile(rf"{name}\s*ampflow\s*Completed"), timeout=RUN_MS
    )


def tab(page: Page, name: str) -> Locator:
    page.get_by_role("tab", name=name).click()
    return page.get_by_role("tabpanel")


def open_artifact(page: Page, key: str) -> None:
    """Open an artifact of the run that is shown."""
    tab(page, "Artifacts").get_by_text(key, exact=True).click()
    page.get_by_role("link", name=re.compile("^[0-9a-f]{8}$")).click()
