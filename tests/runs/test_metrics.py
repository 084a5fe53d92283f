"""docs/metrics.md lists exactly the metrics that are logged."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest

from pilotrl import PACKAGE
from pilotrl.analysis.statistics import MEASURES
from pilotrl.cli.compose import composed_job, parse
from pilotrl.config import trust
from pilotrl.rewards import terms
from pilotrl.runs import run as running
from pilotrl.runs.step_metrics import episode_metrics
from pilotrl.store.run_folder import RunFolder
from pilotrl.tracking.mlflow_sync import AXES
from pilotrl.tracking.run_description import PANELS, panel_points
from pilotrl.types import Episode, Outcome, Task, Turn
from tests.endpoint.server import said, serving
from tests.envs.page import written

PAGE = (PACKAGE.parent / "docs" / "metrics.md").read_text()
NAMES = {
    name for line in PAGE.splitlines() if line.startswith("| `") for name in re.findall("`([^`]+)`", line.split("|")[1])
}
"""What the tables' first columns explain."""

SIZES = (
    "model.max_length=192",
    "model.max_plan_tokens=12",
    "model.max_action_tokens=8",
    "train.steps=1",
    "train.tasks=2",
)
SIZES += ("train.group_size=2", "train.micro_tokens=512", "panel.tasks=2", "panel.samples=1", "trainer.threads=1")
KINDS = {
    "grpo": ("stage=adherence",),
    "ppo": ("stage=adherence", "algorithm=ppo"),
    "sampled": ("stage=adherence", "curriculum=pools", "train.resample=1", "algorithm.beta=0.1", "model.lora.rank=2"),
    "planned or not": (
        "stage=coordination",
        "stage.agents=[adaplan,naive]",
        "algorithm=planner_gain",
        "train.group_size=4",
    ),
    "copied": (
        *("stage=adherence", "train.lag=1", "engine.name=copying", "engine.slots=16"),
        "engine._target_=tests.engine.copying_engine.CopyingEngine",
    ),
    "sft": ("stage=warmstart", "train.validate_every=1", "train.validate_tasks=2"),
    "endpoints": (
        "stage=adherence",
        "judge=openai",
        "teacher=openai",
        *(f"{node}.{key}" for node in ("judge", "teacher") for key in ("credential=null", "cache=null", "attempts=1")),
        *(f"{node}.price_{what}=1" for node in ("judge", "teacher") for what in ("prompt", "reply")),
    ),
    "tools": ("stage=warmstart", "env=till", "agent.replies=tagged", "stage.agents=[naive]", "model.max_length=512"),
    "mixture": ("stage=adherence", "env=paper", "env.trains=[toy]", "env.holds_out=[iqa]", "panel.tasks=8"),
}


@pytest.fixture(scope="module")
def logged(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """The names that each kind of run logs in one step and its evaluations."""
    page = written(PACKAGE.parent / "docs" / "replies.md", tmp_path_factory.mktemp("page"), "till")

    def names(kind: str) -> set[str]:
        folder = RunFolder(tmp_path_factory.mktemp(kind))
        chosen = ["env=toy", *SIZES, "tracking.uri=off", f"model.path={tiny}", *KINDS[kind]]
        arguments = parse(["-cd", str(page)] if kind == "tools" else [])
        with serving(lambda request, number: said("1. push")) as server:
            chosen += [f"{node}.base_url={server.url}" for node in ("judge", "teacher") if kind == "endpoints"]
            running.run(composed_job(arguments, chosen).config, folder.path)
        (line,) = map(json.loads, folder.metrics.read_text().splitlines())
        found = {*line} - {*AXES} | {name for name, _, _ in panel_points(json.loads(folder.summary.read_text()))}
        return {re.sub(r"/(iqa/\w+|toy|iqa|ID|OOD|Avg)/", "/NAME/", name) for name in found}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "learning_curve", lambda *given: None)  # a second a picture
        patch.setattr(trust, "MODULES", {"tests"})
        return {kind: names(kind) for kind in KINDS}


def test_what_a_run_does_not_have_is_not_shown(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without plans there is no adherence: null in metrics.jsonl, and nothing on the line of a step."""
    chosen = ["env=toy", *SIZES, "tracking.uri=off", f"model.path={tiny}", "stage=coordination", "agent=naive"]
    running.run(composed_job(parse([]), chosen).config, tmp_path)
    (step,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step ")]
    assert re.sub(r"-?\d\.\d\d", "N", step) == "step 1/1  reward N  success N"
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["reward/adherence"] is None


@pytest.mark.parametrize("share", [0.5, 0.75])
def test_a_first_step_of_mostly_invalid_actions_is_said_once(
    share: float, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = running.episode_metrics
    monkeypatch.setattr(running, "episode_metrics", lambda *given: real(*given) | {"env/invalid_actions": share})
    chosen = ["env=toy", *SIZES, "train.steps=2", "tracking.uri=off", f"model.path={tiny}", "stage=adherence"]
    running.run(composed_job(parse([]), chosen).config, tmp_path)
    said = [record.getMessage() for record in caplog.records if "did not understand" in record.getMessage()]
    assert said == ([] if share == 0.5 else [said[0]])
    assert not said or said[0].startswith("env=toy: did not understand 75 % of the actions of step 1")


def test_the_share_of_invalid_actions_is_over_turns() -> None:
    def played(*valid: bool, outcome: Outcome = "failed") -> Episode:
        turns = [Turn((), "", "", "", each, well_formed=True, score=0.0) for each in valid]
        made = Episode(Task("toy", "t", "train", 0), 0, 0, "", turns=turns, outcome=outcome)
        made.terms = dict.fromkeys(terms.TERMS)
        return made

    broken = played(False, outcome="broken")
    assert episode_metrics([played(True, False, False), played(True), broken])["env/invalid_actions"] == 0.5
    assert math.isnan(episode_metrics([broken])["env/invalid_actions"])


@pytest.mark.parametrize("kind", KINDS)
def test_every_number_is_explained(logged: dict[str, set[str]], kind: str) -> None:
    assert logged[kind] <= NAMES


def test_every_name_that_is_explained_is_logged(logged: dict[str, set[str]]) -> None:
    """By some kind of run. An evaluation has all its measures, though not every one is defined in every run."""
    every = {f"{panel}/{measure}" for panel in PANELS.values() for measure in [*MEASURES, "success_greedy"]}
    copied = {name for name in NAMES if name.startswith("engine/")}  # by tests/engine/test_vllm.py and test_mismatch.py
    copied |= {"memory/gpu_gb"}  # by test_seconds.py
    assert {name for name in NAMES if "/" in name} - copied == every.union(*logged.values())


def test_every_term_is_explained() -> None:
    assert {f"reward/{term}" for term in terms.TERMS} <= NAMES
