"""The progressive curriculum: a chain equals its stages run one by one, however often it is interrupted."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from omegaconf import OmegaConf

from pilotrl import PACKAGE
from pilotrl.__main__ import main
from pilotrl.cli import stage_chain
from pilotrl.cli.compose import composed_job, parse
from pilotrl.cli.stored_config import stored_config
from pilotrl.models.policy import load_model
from pilotrl.report.runs import find, read
from pilotrl.runs import progressive
from pilotrl.runs import run as running
from pilotrl.runs.evaluation_cache import handed_over, recalled
from pilotrl.runs.evaluation_set import EpisodesByProtocol
from pilotrl.runs.setup import model_path
from pilotrl.store.run_folder import RunFolder
from tests.cli.test_cli import Runs, runs  # noqa: F401 (a fixture)
from tests.conftest import RESULTS
from tests.runs.test_resume import SMALL as TINY
from tests.runs.test_resume import Interrupted, disturb, result

SMALL = (*TINY, "train.steps=4", "stage=progressive", "stage.order=[adherence,coordination]", "stage.planner=teacher")
"""With plans of its own a model this small never gets a reward to learn from."""
ORDER = ("1-adherence", "2-coordination")
Play = Callable[..., Path]


@pytest.fixture(scope="module")
def play(warm: Path) -> Iterator[Play]:
    """Gives the command of a chain in a folder."""

    def command(folder: Path, *words: str) -> Path:
        assert main(words or [*SMALL, f"model.path={warm}", f"hydra.run.dir={folder}"]) == 0
        return folder

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["pilotrl"])
        for module in (running, progressive):
            patch.setattr(module, "learning_curve", lambda *given: None)  # a second a picture
        yield command


@pytest.fixture(scope="module")
def whole(play: Play, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a chain that was never interrupted."""
    return play(tmp_path_factory.mktemp("whole") / "chain")


def summary(folder: Path) -> dict[str, Any]:
    held: dict[str, Any] = json.loads(RunFolder(folder).summary.read_text())
    return held


def outcome(folder: Path) -> list[Any]:
    """Everything that has to be the same, of the chain and its stages, but for where they lie."""
    parts = [result(folder), *(result(folder / name) for name in ORDER)]
    for panels, *_ in parts:
        panels.pop("config_sha256")  # the folder of the stage before is in there
    return parts


def test_each_stage_begins_with_the_weights_that_the_last_one_ended_with(whole: Path) -> None:
    first, second = (summary(whole / name) for name in ORDER)
    told = summary(whole)
    assert (first["parent"], second["parent"]) == (None, str(whole / ORDER[0]))
    assert [one["stage"] for one in (first, second, told)] == ["adherence", "coordination", "progressive"]
    assert len({first["weights_sha256"], second["weights_sha256"]}) == 2
    assert [stage["folder"] for stage in told["stages"]] == [*ORDER]
    assert told["weights_sha256"] == second["weights_sha256"] == told["stages"][-1]["weights_sha256"]
    assert told["eval"]["before"] == first["eval"]["before"]
    assert told["eval"]["after"] == second["eval"]["after"]
    assert told["eval_teacher"]["after"] == second["eval_teacher"]["after"]
    steps = [json.loads(line)["step"] for line in RunFolder(whole).metrics.read_text().splitlines()]
    assert steps == [1, 2, 3, 4]
    assert told["train"]["generated_tokens"] == sum(one["train"]["generated_tokens"] for one in (first, second))
    assert load_model(str(RunFolder(whole).policy), "float32") is not None


def test_a_stage_of_a_chain_equals_the_stage_alone_and_no_evaluation_is_repeated(
    whole: Path, warm: Path, play: Play, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reused evaluations equal repeated ones, to the last byte."""
    played: list[EpisodesByProtocol] = []
    keep = running.measure

    def watched(bench: Any, panel: Any, known: EpisodesByProtocol, *more: Any) -> EpisodesByProtocol:
        played.append(known)
        return keep(bench, panel, {}, *more)

    monkeypatch.setattr(running, "measure", watched)
    alone = tmp_path / "alone"
    words = [*TINY, "stage=coordination", "train.steps=2", "stage.planner=teacher", f"model.path={warm}"]
    play(alone, *words, f"parent={whole / ORDER[0]}", f"hydra.run.dir={alone}")
    assert [*played[0]] == ["own plans, sampled", "teacher's plans, sampled"]
    assert played[1] == {}
    assert result(alone) == result(whole / ORDER[1])


def test_evaluations_with_other_settings_or_weights_are_not_reused(
    whole: Path, warm: Path, play: Play, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    played: list[EpisodesByProtocol] = []

    def watched(bench: Any, panel: Any, known: EpisodesByProtocol, *more: Any) -> EpisodesByProtocol:
        played.append(known)
        raise Interrupted

    monkeypatch.setattr(running, "measure", watched)
    words = [*TINY, "stage=coordination", f"model.path={warm}", f"parent={whole / ORDER[0]}"]
    changes = (
        "panel.tasks=2",
        "engine.slots=3",
        "env.max_turns=3",
        "agent=react",
        f"parent={whole / ORDER[1]}",
        "seed=1",
    )
    for number, change in enumerate(changes):
        with pytest.raises(Interrupted):
            play(tmp_path, *words, change, f"hydra.run.dir={tmp_path}/{number}")
    assert [bool(known) for known in played] == [False, False, False, False, True, True]


def test_evaluations_with_another_teachers_plans_are_not_reused(
    whole: Path, warm: Path, play: Play, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = composed_job(parse([]), [*TINY, f"parent={whole / ORDER[0]}", f"model.path={warm}"]).config
    end = json.loads((whole / ORDER[0] / "summary.json").read_text())
    arms = handed_over(config, end["panel"]["sha256"], end["weights_sha256"])
    config.teacher["_target_"] = "pilotrl.teacher.file.FileTeacher"
    assert [*arms] == ["own plans, sampled", "teacher's plans, sampled"]
    assert [*handed_over(config, end["panel"]["sha256"], end["weights_sha256"])] == ["own plans, sampled"]


def test_evaluations_of_a_parent_of_another_revision_are_not_reused(whole: Path, warm: Path, tmp_path: Path) -> None:
    """Its configuration has a key that no longer exists: the evaluation is repeated, and the run continues."""
    shutil.copytree(whole / ORDER[0], tmp_path / "old")
    end = json.loads((tmp_path / "old" / "summary.json").read_text())
    config = composed_job(parse([]), [*TINY, f"parent={tmp_path}/old", f"model.path={warm}"]).config
    assert handed_over(config, end["panel"]["sha256"], end["weights_sha256"])
    theirs = OmegaConf.load(tmp_path / "old" / ".hydra" / "config.yaml")
    theirs.reward.overlong_limit = 384
    OmegaConf.save(theirs, tmp_path / "old" / ".hydra" / "config.yaml")
    assert handed_over(config, end["panel"]["sha256"], end["weights_sha256"]) == {}


def test_a_chain_from_scratch_keeps_its_initial_model(play: Play, tmp_path: Path) -> None:
    """So that an evaluation of the chain uses it, and creates no other."""
    words = [
        *SMALL,
        "train.steps=2",
        "model=scratch",
        "model.lora.rank=null",
        "model.scratch.layers=1",
        "model.scratch.copying=0",
    ]
    folder = tmp_path / "chain"
    play(folder, *words, "model.scratch.vocabulary=512", f"hydra.run.dir={folder}")
    assert (folder / "scratch").resolve() == (folder / ORDER[0] / "scratch").resolve()
    assert model_path(stored_config(RunFolder(folder)), folder) == str(folder / "scratch")
    assert load_model(str(folder / "scratch"), "float32") is not None


def interrupt(play: Play, folder: Path, owner: Any, method: str, count: int) -> None:
    """Start a chain in which the `count`-th call of a function does not come back."""
    kept, calls = getattr(owner, method), iter(range(1, 1000))

    def once(*given: Any) -> Any:
        if next(calls) == count:
            raise Interrupted
        return kept(*given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, method, once)
        with pytest.raises(Interrupted):
            play(folder)
    assert not RunFolder(folder).finished
    disturb()


WHERE = [
    pytest.param(stage_chain, "begin_stage", 1, id="before the first stage", marks=pytest.mark.slow),
    pytest.param(stage_chain, "begin_stage", 2, id="between two stages", marks=pytest.mark.slow),
    pytest.param(running.Run, "summary", 2, id="in the second stage, which has a checkpoint"),
    pytest.param(progressive, "finish", 1, id="after the last stage", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("owner", "method", "count"), WHERE)
def test_an_interrupted_chain_ends_like_one_that_never_was(
    whole: Path, play: Play, tmp_path: Path, owner: Any, method: str, count: int
) -> None:
    folder = tmp_path / "chain"
    interrupt(play, folder, owner, method, count)
    play(folder, f"resume={folder}") if count == 2 else play(folder)
    assert outcome(folder) == outcome(whole)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_finished_chain_says_so_and_changes_nothing(
    whole: Path, play: Play, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(whole)
    for words in ((), (f"resume={whole}",)):
        play(whole, *words)
        assert "this run is finished" in capsys.readouterr().out
    assert contents(whole) == before


def test_a_report_reads_a_chain_as_one_run(whole: Path) -> None:
    found = find([whole.parent])
    assert [folder.path for folder in found.values()] == [whole]
    run = read("chain", RunFolder(whole))
    assert [line["step"] for line in run.metrics] == [1, 2, 3, 4]
    assert recalled(RunFolder(whole), "before").keys() >= {"own plans, sampled"}


def stages(runs: Runs) -> list[tuple[str, int, float, str | None]]:  # noqa: F811
    return [(config.stage.name, config.train.steps, config.train.lr, config.parent) for config, _ in runs.seen]


def begun(command: Sequence[str], runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """Give a command whose stages come to nothing, one after another."""

    def then(config: Any, folder: Path) -> None:
        RunFolder(folder).metrics.write_text("")
        RunFolder(folder).summary.write_text(RESULTS)

    runs.then = then
    monkeypatch.setattr(running, "run", runs.run)
    monkeypatch.setattr(progressive, "finish", lambda *given: (_ for _ in ()).throw(Interrupted))
    with pytest.raises(Interrupted):
        main(command)


STUB = ("env=toy", "tracking.uri=off", "stage=progressive", "hydra.run.dir=here")


def test_what_was_typed_holds_for_all_stages_and_what_was_not_is_their_own(
    runs: Runs,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mine = tmp_path / "mine" / "stage"
    mine.mkdir(parents=True)
    (mine / "mine.yaml").write_text(
        "# @package _global_\ndefaults: [coordination]\nstage: {name: mine}\ntrain: {lr: 5.0}\n"
    )
    order = ("stage.order=[adherence,mine,coordination]", "+stage.lengths.mine=2", "train.steps=9", "seed=7")
    begun(["-cd", "mine", *STUB, *order], runs, monkeypatch)
    usual = runs.seen[0][0].train.lr
    folders = [str(tmp_path / "here" / name) for name in ("1-adherence", "2-mine")]
    assert stages(runs) == [
        ("adherence", 2, usual, None),
        ("mine", 5, 5.0, folders[0]),
        ("coordination", 2, usual, folders[1]),
    ]
    assert {config.seed for config, _ in runs.seen} == {7}
    runs.seen.clear()
    begun(["-cd", "mine", *STUB[:3], "hydra.run.dir=there", *order, "train.lr=0.25"], runs, monkeypatch)
    assert [lr for _, _, lr, _ in stages(runs)] == [0.25] * 3


def test_another_chain_is_refused_even_if_only_one_of_its_stages_differs(
    runs: Runs,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "mine" / "stage").mkdir(parents=True)
    other = "# @package _global_\ndefaults: [coordination]\nstage: {name: mine}\ntrain: {lr: 5.0}\n"
    (tmp_path / "mine" / "stage" / "mine.yaml").write_text(other)
    command = ["-cd", "mine", *STUB, "stage.order=[adherence,mine]", "+stage.lengths.mine=1"]
    begun(command, runs, monkeypatch)
    usual, before = runs.seen[0][0].train.lr, contents(tmp_path / "here")
    capsys.readouterr()
    assert main([*command, f"train.lr={usual}"]) == 2
    assert f"(train.lr is 5.0 there, {usual} here)" in capsys.readouterr().err
    assert main([*command, "stage.order=[mine,adherence]"]) == 2
    assert contents(tmp_path / "here") == before


def test_a_dry_run_prints_every_stage(
    runs: Runs,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([*STUB, "stage.order=[coordination,adherence]", "train.steps=10", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert out.index("name: coordination") < out.index("name: adherence")
    assert out.count("steps: 5") == 2
    assert list(tmp_path.iterdir()) == []


def start(place: Path, *words: str) -> subprocess.Popen[bytes]:
    environment = os.environ | {"PYTHONPATH": str(PACKAGE.parent), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-m", "pilotrl", *words], cwd=place, env=environment)


@pytest.mark.slow
def test_kill_9_in_the_second_stage(warm: Path, tmp_path: Path) -> None:
    """Whole processes: what they leave behind is what the system leaves of them."""
    command = [*SMALL, "train.steps=12", f"model.path={warm}"]
    assert start(tmp_path, *command, "hydra.run.dir=whole").wait(300) == 0
    for lines in (1, 3):
        process = start(tmp_path, *command, "hydra.run.dir=killed")
        metrics = RunFolder(tmp_path / "killed" / ORDER[1]).metrics
        while process.poll() is None and not (metrics.exists() and metrics.read_bytes().count(b"\n") >= lines):
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert start(tmp_path, *command, "hydra.run.dir=killed").wait(300) == 0
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole")


@pytest.mark.slow
def test_a_sweep_of_chains_has_a_run_for_each_chain_and_each_of_its_stages(warm: Path, tmp_path: Path) -> None:
    words = [word for word in SMALL if not word.startswith(("tracking", "stage.order"))]
    orders = "stage.order=[adherence,coordination],[coordination]"
    assert (
        start(
            tmp_path, "-m", *words, orders, f"model.path={warm}", "hydra/launcher=local", "hydra.sweep.dir=all"
        ).wait()
        == 0
    )
    client = MlflowClient(f"sqlite:///{tmp_path}/multirun/mlflow.db")
    found = client.search_runs([client.get_experiment_by_name("pilotrl").experiment_id])  # type: ignore[union-attr]
    below = {run.info.run_id: run.data.tags.get("mlflow.parentRunId") for run in found}
    (sweep,) = [run for run, parent in below.items() if parent is None]
    chains = [run for run, parent in below.items() if parent == sweep]
    assert (len(found), len(chains)) == (6, 2)
    assert sorted([*below.values()].count(chain) for chain in chains) == [1, 2]
    assert {run.info.status for run in found} == {"FINISHED"}
