"""What somebody sees who opens MLflow: the jobs of a sweep under it, a curve, an episode turn by turn and what it was worth.

With PILOTRL_SCREENSHOTS=FOLDER the pages are kept there.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from pilotrl.tracking.mlflow_sync import MlflowSync
from pilotrl.tracking.sync_state import RunInfo, SyncState

pytestmark = pytest.mark.browser

CHROMIUM = shutil.which("chromium")
QUIETLY = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
QUIETLY += ["--disable-background-networking", "--disable-component-update"]
PATIENCE = 180_000
"""Milliseconds."""


@dataclass
class Sweep:
    """Two jobs under one run."""

    experiment: str
    jobs: list[str]
    page: Any

    def open(self, path: str) -> Any:
        """A page of the experiment."""
        self.page.goto(f"{self.page.server}/#/experiments/{self.experiment}/{path}")
        return self.page

    def keep(self, name: str) -> None:
        if folder := os.environ.get("PILOTRL_SCREENSHOTS"):
            self.page.screenshot(path=Path(folder) / f"{name}.png", timeout=PATIENCE)


@pytest.fixture
def page(server: Any) -> Iterator[Any]:
    """An empty page; skips without a browser."""
    if CHROMIUM is None:
        reason = "NO BROWSER: chromium is not installed; Debian has it as the package chromium"
        pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIETLY, timeout=PATIENCE)
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.set_default_timeout(PATIENCE)
        page.server = server.uri
        yield page
        browser.close()


@pytest.fixture
def sweep(page: Any, tmp_path: Path, finished: Callable[[Path], SyncState]) -> Sweep:
    client = MlflowClient(page.server)
    experiment = client.create_experiment("looked at", tags={"mlflow.experimentKind": "custom_model_development"})
    over = client.create_run(experiment, run_name="the sweep")
    jobs = []
    for seed in (0, 1):
        sync_state, tags = finished(tmp_path / f"job-{seed}"), {"mlflow.parentRunId": over.info.run_id}
        sync_state.begin(
            page.server, replace(RunInfo("looked at", f"adherence-toy-{seed}", {}, tags), traces=1, judge="RuleJudge")
        )
        sync_state.end("FINISHED", 1.9e9)
        MlflowSync(sync_state, page.server).send()
        jobs.append(str(sync_state.read()["run_id"]))
    return Sweep(experiment, jobs, page)


def test_the_jobs_of_a_sweep_stand_under_it(sweep: Sweep) -> None:
    page = sweep.open("runs?workflowType=machine_learning")
    over = page.get_by_role("link", name="the sweep")
    over.wait_for()
    assert page.get_by_role("link", name="adherence-toy-0").count() == 0
    page.get_by_role("gridcell").filter(has=over).get_by_role("button").click()
    for name in ("adherence-toy-0", "adherence-toy-1"):
        page.get_by_role("link", name=name).first.wait_for()  # the run; behind it stands its model
    sweep.keep("nested")


def test_a_sweeps_page_says_what_became_of_its_jobs(
    page: Any, tmp_path: Path, finished: Callable[[Path], SyncState]
) -> None:
    client = MlflowClient(page.server)
    experiment = client.create_experiment("looked at", tags={"mlflow.experimentKind": "custom_model_development"})
    state = SyncState(tmp_path)
    jobs = {"0": {"algorithm": "grpo"}, "1": {"algorithm": "ppo"}}
    state.begin(page.server, RunInfo("looked at", "the sweep", {}, {"jobs": "2", "folder": "here"}, jobs=jobs))
    finished(tmp_path / "1")
    MlflowSync(state, page.server).send()
    page.goto(f"{page.server}/#/experiments/{experiment}/runs/{state.read()['run_id']}")
    page.get_by_role("row", name=re.compile("1 ppo FINISHED 100.0 % 100.0 %")).wait_for()
    page.get_by_role("row", name=re.compile("0 grpo WAITING")).wait_for()
    if folder := os.environ.get("PILOTRL_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / "sweep.png", timeout=PATIENCE)


def test_a_curve(sweep: Sweep) -> None:
    page = sweep.open(f"runs/{sweep.jobs[0]}/model-metrics")
    run_info = page.get_by_test_id("experiment-view-compare-runs-card").filter(has_text="panel/adherence")
    run_info.locator(".scatterlayer .js-line").first.wait_for(state="attached")  # flat: it has no height
    sweep.keep("curve")


def test_an_episode_turn_by_turn(sweep: Sweep) -> None:
    traces = MlflowClient(sweep.page.server).search_traces(locations=[sweep.experiment])
    page = sweep.open(f"traces?selectedEvaluationId={traces[0].info.trace_id}")
    for name in ("episode", "turn 1", "plan", "action", "environment", "verdict"):
        page.get_by_test_id(re.compile("^span-title-row-")).filter(has_text=re.compile(f"^{name}")).wait_for()
    page.get_by_test_id(re.compile("^span-title-row-")).filter(has_text="verdict").click()
    page.get_by_test_id(re.compile("^assessment-tag-")).first.wait_for()
    sweep.keep("episode")


def test_what_was_played_on_one_task_opens_on_one_page(sweep: Sweep) -> None:
    traces = MlflowClient(sweep.page.server).search_traces(locations=[sweep.experiment])
    session = traces[0].info.trace_metadata["mlflow.trace.session"]
    page = sweep.open(f"chat-sessions/{session}")
    page.get_by_text(session).first.wait_for()
    page.get_by_text("Turn 1").first.wait_for()
    sweep.keep("session")
