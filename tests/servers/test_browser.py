"""What people see: MLflow's pages of our runs, and our report, in a real browser. Screenshots stay with the test's
files (pytest's temporary folder, or the folder that VODBENCH_SCREENSHOTS names)."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from vodbench_machines import S3, Mlflow, Swept

from vodbench.tracking.server import connect

pytestmark = pytest.mark.slow

PATIENCE_MS = 120_000
MARKERS = "path.point"  # of plotly's scatter traces


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    executable = shutil.which("chromium") or shutil.which("chromium-browser")
    if executable is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def screenshots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Path(os.environ.get("VODBENCH_SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture
def page(browser: Any, mlflow: Mlflow) -> Iterator[Any]:
    login = {"username": mlflow.user, "password": mlflow.password}
    context = browser.new_context(http_credentials=login, viewport={"width": 1500, "height": 1100})
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    yield page
    context.close()


@pytest.fixture(scope="module")
def experiment(swept: Swept, mlflow: Mlflow) -> tuple[str, list[Any]]:
    """Its id, and two runs: those of the front first."""
    client = connect(mlflow.url_with_password)
    found = client.get_experiment_by_name("bucket")
    assert found is not None
    runs = client.search_runs([found.experiment_id], "tags.method = 'rdn'")
    chosen = sorted(runs, key=lambda run: (run.data.tags["front"] != "yes", run.info.run_name))
    return found.experiment_id, chosen[:2]


def test_the_compare_page_names_params_and_metrics(
    page: Any, mlflow: Mlflow, experiment: tuple[str, list[Any]], screenshots: Path
) -> None:
    number, runs = experiment
    query = urlencode({"runs": json.dumps([run.info.run_id for run in runs]), "experiments": json.dumps([number])})
    page.goto(f"{mlflow.url}/#/compare-runs?{query}")
    plot = page.wait_for_selector(".js-plotly-plot .parcoords", state="attached")
    assert plot is not None
    page.get_by_text("Comparing 2 Runs from 1 Experiment").wait_for()
    page.screenshot(path=screenshots / "compare.png")
    # The plot's axes: the knob in which they differ, and mAP, without a click.
    axes = page.locator(".js-plotly-plot .axis-title").all_text_contents()
    differing = [name for name in ("T", "r") if runs[0].data.params[name] != runs[1].data.params[name]]
    assert axes == [*differing, "map"]
    said = page.locator("body").inner_text()
    assert all(run.info.run_name in said for run in runs)
    names = {"T", "r", "K", "method", "preset", "protocol"} | {"map", "fps", "latency_frames"} | {"contended", "paper"}
    assert names <= set(said.split())


def test_the_report_renders_and_its_front_reacts_to_the_pointer(
    browser: Any, swept: Swept, s3: S3, screenshots: Path, tmp_path: Path
) -> None:
    (tmp_path / "report.html").write_bytes(s3.fs.cat_file("bench/sweep/report.html"))
    context = browser.new_context(viewport={"width": 1280, "height": 1000}, offline=True)
    page = context.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("requestfailed", lambda request: said.append(request.url))
    page.goto(f"file://{tmp_path}/report.html")
    front = page.locator(".js-plotly-plot").first
    front.locator(MARKERS).first.wait_for()
    page.screenshot(path=screenshots / "report.png", full_page=True)
    assert front.locator(".hovertext").count() == 0
    front.locator(MARKERS).last.hover(force=True)
    label = front.locator(".hovertext").first
    label.wait_for()
    page.screenshot(path=screenshots / "report-hover.png")
    words = label.text_content()
    assert words is not None
    assert "mAP" in words
    assert "ms" in words
    assert page.locator("h2").all_inner_texts()[:2] == ["Speed and accuracy", "Trials"]
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")  # tables scroll in their box
    assert said == []
    context.close()
