"""An environment is called by its file, whatever its class is called, and success is told by level: in every place there is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from omegaconf import OmegaConf
from rich.console import Console

from pilotrl import envs, play
from pilotrl.analysis import terminal
from pilotrl.cli import stage_chain
from pilotrl.cli.compose import Job, composed_job, parse
from pilotrl.cli.stored_config import read_elsewhere, stored_config
from pilotrl.cli.validate import check
from pilotrl.report import __main__ as report
from pilotrl.runs import run as running
from pilotrl.runs.describe import environments, identity, in_the_start, unseen_environment_warning
from pilotrl.runs.evaluation_set import levels_of
from pilotrl.runs.step_metrics import run_info
from pilotrl.store.records import from_record
from pilotrl.store.run_folder import RunFolder
from pilotrl.tracking.evaluation_dataset import EvaluationSet
from pilotrl.tracking.run_description import panel_points
from pilotrl.types import UserError

CODE = """
from pilotrl.envs.toy import ToyEnv

class Buttons(ToyEnv):
    def level(self, task):
        return f"{len(task.split('-'))} buttons"
"""
FILES = {
    "easy": "_target_: presses.Buttons\nsplit: train\nmax_turns: 4\nseed: 0\n",
    "hard": "defaults: [easy, _self_]\nmax_turns: 3\nseed: 1\n",
    "buttons": "defaults: [toy]\nmax_turns: 9\n",
    "slow_shop": "defaults: [webshop]\nmax_turns: 9\n",
}
MIXED = ("env=worlds", "env.trains=[easy,hard]")
SIZES = (
    *(
        "model.max_length=256",
        "model.max_plan_tokens=12",
        "model.max_action_tokens=8",
        "train.steps=1",
        "train.tasks=2",
    ),
    *("train.group_size=2", "train.micro_tokens=512", "panel.tasks=12", "panel.samples=1", "panel.greedy=false"),
    *("trainer.threads=1", "tracking.uri=off", "stage=planning", "stage.planner=policy", "drift.every=0"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's own: two environments of one class, and one of a class of ours."""
    place = tmp_path_factory.mktemp("own")
    (place / "env").mkdir()
    (place / "presses.py").write_text(CODE)
    for name, text in FILES.items():
        (place / "env" / f"{name}.yaml").write_text(text)
    return place


def composed(folder: Path, *lines: str) -> Job:
    return composed_job(parse(["-cd", str(folder)]), list(lines))


def test_folder_summary_and_mlflow_have_the_name_of_the_file(folder: Path) -> None:
    for name in ("easy", "hard"):
        job = composed(folder, f"env={name}")
        check(job.config)
        assert str(job.hydra.run.dir).endswith(f"-adherence-{name}")
        assert identity(job.config)["env"] == name
        about = run_info(job.config, folder)
        assert about.tags["env"] == name
        assert about.run_name == f"adherence-{name}-0"
        assert about.params["env"]["_name_"] == name
        assert [*environments(job.config)] == [name]


@pytest.mark.parametrize("name", ["gymnasium", "paper", "worlds", "webshop"])
def test_ours_too(folder: Path, name: str) -> None:
    config = composed(folder, f"env={name}").config
    assert (identity(config)["env"], run_info(config, folder).tags["env"]) == (name, name)


def test_a_run_that_goes_on_knows_its_name_and_its_configuration_is_as_hydra_writes_it(
    folder: Path, tmp_path: Path
) -> None:
    job, run = composed(folder, "env=hard"), RunFolder(tmp_path / "run")
    stage_chain.begin_stage(run, job, None)
    assert "_name_" not in run.config.read_text()
    for read in (stored_config, read_elsewhere):
        assert read(run) == job.config
        assert identity(read(run))["env"] == "hard"
    held = OmegaConf.load(run.hydra)
    for odd, called in {"../../etc": "etc", "a b": "presses", "": "presses", "\n": "presses", "[1]": "presses"}.items():
        held.hydra.runtime.choices.env = odd
        run.hydra.write_text(OmegaConf.to_yaml(held))
        assert identity(stored_config(run))["env"] == called
    run.hydra.unlink()
    there = OmegaConf.load(run.config)
    there.env["_name_"] = "../../etc"
    run.config.write_text(OmegaConf.to_yaml(there))
    assert "_name_" not in stored_config(run).env
    assert identity(stored_config(run))["env"] == "presses"


def test_the_name_is_no_key_that_can_be_typed(folder: Path) -> None:
    with pytest.raises(UserError, match=r"env\._name_: an environment has the name of its file"):
        composed(folder, "env=easy", "+env._name_=mine")


def test_a_file_that_builds_on_another_is_read_in_a_mixture_as_alone(folder: Path) -> None:
    alone = composed(folder, "env=hard").config.env
    member = environments(composed(folder, *MIXED).config)["hard"]
    assert member == {key: value for key, value in alone.items() if key != "_name_"}
    assert (member["max_turns"], member["seed"]) == (3, 1)
    (folder / "env" / "lost.yaml").write_text("defaults: [nowhere]\n")
    with pytest.raises(UserError, match="env=nowhere: there is no such file, and the defaults of another one name it"):
        envs.settings_of("lost")
    (folder / "env" / "lost.yaml").unlink()


def test_what_is_known_of_a_class_holds_for_every_file_of_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shop = composed(folder, "env=slow_shop").config
    assert unseen_environment_warning(shop) is None  # the shipped model has seen the class
    assert "never seen easy" in str(unseen_environment_warning(composed(folder, "env=easy").config))
    assert in_the_start(composed(folder, *MIXED, "env.holds_out=[slow_shop]").config) == ["slow_shop"]
    assert play.main(["-cd", str(folder), "env=buttons", "rule=2", "teacher.wording=exact"]) == 0
    assert "2 of 2 solved" in capsys.readouterr().out


@pytest.fixture(scope="module")
def ran(folder: Path, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A step in a mixture of two environments of one class, with its evaluations."""
    run = RunFolder(tmp_path_factory.mktemp("mixed"))
    job = composed(folder, *MIXED, *SIZES, f"model.path={tiny}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "learning_curve", lambda *given: None)
        stage_chain.begin_stage(run, job, None)
        running.run(stored_config(run), run.path)
    return run


@pytest.fixture
def summary(ran: RunFolder) -> dict[str, Any]:
    held: dict[str, Any] = json.loads(ran.summary.read_text())
    return held


def played(ran: RunFolder, when: str) -> Iterator[tuple[str, float]]:
    """Name and success of each task of an evaluation."""
    for record in map(json.loads, ran.episodes.read_text().splitlines()):
        if record["phase"] == f"{when}/own plans, sampled":
            episode = from_record(record)
            yield episode.task.id, float(episode.outcome == "solved")


def test_two_files_of_one_class_are_told_apart(ran: RunFolder, summary: dict[str, Any]) -> None:
    assert summary["env"] == "worlds"
    assert summary["panel"]["name"] == "worlds-test-12x1"
    assert [*summary["eval"]["by_env"]] == ["easy", "hard"]
    (line,) = map(json.loads, ran.metrics.read_text().splitlines())
    assert {key for key in line if key.startswith("env/") and key.count("/") == 2} <= {
        "env/easy/success",
        "env/hard/success",
    }
    assert EvaluationSet.of(json.loads((ran / "panel.json").read_text())).name.startswith("worlds-test-12x1-")


LEVELS = [f"{env}/{count} buttons" for env in ("easy", "hard") for count in (2, 3)]


def test_success_by_level_is_what_the_episodes_add_up_to(ran: RunFolder, summary: dict[str, Any]) -> None:
    levels, found = levels_of(json.loads((ran / "panel.json").read_text())), summary["eval"]["by_level"]
    assert {*found} == {*levels.values()} <= {*LEVELS}
    assert len(found) >= 2
    for task, level in levels.items():
        env, _, name = task.partition("/")
        assert level == f"{env}/{len(name.split('-'))} buttons"
    for when in ("before", "after"):
        solved = dict(played(ran, when))
        for level, block in found.items():
            own = [value for task, value in solved.items() if levels[task] == level]
            assert block["tasks"] == len(own)
            assert block[when]["success"] == pytest.approx(fmean(own))
    assert sum(block["tasks"] for block in found.values()) == 12


def test_levels_are_shown_in_the_terminal_in_mlflow_and_in_the_report(
    ran: RunFolder, summary: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    console, levels = Console(record=True, width=110), [*summary["eval"]["by_level"]]
    terminal.show_end(console, summary, ran.path, None)
    shown = console.export_text()
    assert "success by level (tasks)" in shown
    assert all(f"  {level} (" in shown for level in levels)
    assert "12 tasks of worlds, split test" in shown
    points = {name for name, _, _ in panel_points(summary)}
    assert {f"panel/level/{level}/success" for level in levels} <= points
    assert {"panel/easy/success", "panel/hard/success"} <= points
    assert report.main([str(ran.path), f"out={tmp_path / 'page'}"]) == 0
    tables, page = ((tmp_path / "page" / name).read_text() for name in ("tables.md", "report.html"))
    assert "Evaluation set worlds-test-12x1" in tables
    assert "Success by level" in page
    for level in levels:
        assert f"| own plans: success | {level} | A | {summary['eval']['by_level'][level]['tasks']} |" in tables
        assert f">{level}<" in page
    assert ",worlds," in (tmp_path / "page" / "runs.csv").read_text()


def test_one_level_is_no_table() -> None:
    for name, more in {"iqa": True, "babyai": True, "textcraft": True, "alfworld": True, "toy": False}.items():
        env = envs.load(name, split="test")
        assert (len({envs.level(env, task) for task in env.tasks}) > 1) == more


def test_levels_of_ours() -> None:
    assert envs.level(envs.load("babyai"), "GoToRedBall-3") == "GoToRedBall"
    assert envs.level(envs.load("textcraft"), "stick-0").startswith("depth ")
    mixed = envs.load("worlds", trains=["iqa", "toy"])
    found = {envs.level(mixed, task) for task in mixed.tasks[:20]}
    assert found <= {"", "iqa/contains", "iqa/count", "iqa/exists"}
    assert len(found) > 2
