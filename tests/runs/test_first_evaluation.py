"""Jobs of a sweep that begin with equal weights play their first evaluation once, and end as if each had played it."""

from __future__ import annotations

import json
import logging
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from pilotrl.__main__ import main
from pilotrl.cli.compose import composed_job, parse
from pilotrl.cli.stored_config import stored_config
from pilotrl.runs import evaluation_cache
from pilotrl.runs import run as running
from pilotrl.runs.evaluation_cache import BEFORE, FirstEvaluation, recalled
from pilotrl.runs.evaluation_set import EpisodesByProtocol
from pilotrl.runs.setup import TrainSetup
from pilotrl.store.run_folder import RunFolder
from tests.runs.test_resume import SMALL, result

WORDS = (*SMALL, "train.steps=2", "stage=adherence", "model.lora.rank=4", "tracking.uri=off")
OWN, TEACHERS = "own plans, sampled", "teacher's plans, sampled"


@pytest.fixture(scope="module")
def sweep(warm: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[str, str]]]:
    """Folder of a sweep over seeds and algorithms, and which jobs have played which protocols, in order."""
    place, played = tmp_path_factory.mktemp("sweep"), list[tuple[str, str]]()
    keep = TrainSetup.run_episodes

    def counted(self: TrainSetup, *given: Any) -> Any:
        if (key := given[3])[0] == "panel":
            played.append((Path(logging.root.handlers[-1].baseFilename).parent.name, key[2]))  # type: ignore[attr-defined]
        return keep(self, *given)

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setattr(sys, "argv", ["pilotrl"])
        patch.setattr(TrainSetup, "run_episodes", counted)
        patch.setattr(running, "learning_curve", lambda *given: None)
        swept = ("seed=0,1", "algorithm=grpo,ppo", "hydra.sweep.dir=all")
        assert main(["-m", *WORDS, f"model.path={warm}", *swept]) == 0
    return place / "all", played


def test_only_the_first_job_plays_what_all_begin_with(sweep: tuple[Path, list[tuple[str, str]]]) -> None:
    """Also of other seeds, whose new adapters are drawn otherwise and say nothing yet, and beside a value head."""
    folder, played = sweep
    assert played == [(job, protocol) for job in "00123" for protocol in (OWN, TEACHERS)]
    records = [json.loads((folder / job / BEFORE).read_text()) for job in "0123"]
    assert [record["taken_from"] for record in records] == [{}] + [{OWN: "0", TEACHERS: "0"}] * 3
    weights = {json.loads((folder / job / "summary.json").read_text())["weights_sha256"] for job in "0123"}
    assert len(weights) == 4


def test_a_job_is_the_run_by_itself_to_the_last_byte(
    sweep: tuple[Path, list[tuple[str, str]]], warm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "learning_curve", lambda *given: None)
    config = composed_job(parse([]), [*WORDS, f"model.path={warm}", "seed=1"]).config
    running.run(config, tmp_path / "alone")
    assert not (tmp_path / "alone" / BEFORE).exists()  # of which there is nobody to tell
    assert result(tmp_path / "alone") == result(sweep[0] / "2")


@pytest.fixture
def ninth(sweep: tuple[Path, list[tuple[str, str]]], tmp_path: Path) -> FirstEvaluation:
    """What another job, equal to the second, would ask for; there is no other than the first to answer."""
    for job in "01":
        shutil.copytree(sweep[0] / job, tmp_path / job)
    key = json.loads((tmp_path / "1" / BEFORE).read_text())["key"]
    shutil.rmtree(tmp_path / "1")
    return FirstEvaluation(tmp_path, RunFolder(tmp_path / "9"), stored_config(RunFolder(tmp_path / "0")), key)


def known(first: FirstEvaluation) -> EpisodesByProtocol:
    return first.known((OWN, TEACHERS))[0]


def test_an_equal_job_is_answered_with_what_was_played(ninth: FirstEvaluation) -> None:
    assert known(ninth) == recalled(RunFolder(ninth.sweep / "0"), "before")
    assert ninth.known((OWN,))[1] == {OWN: "0"}
    assert known(replace(ninth, folder=RunFolder(ninth.sweep / "0"))) == {}  # a job does not answer itself


@pytest.mark.parametrize("part", ["panel", "weights", "git_revision", "parent", "machine"])
def test_what_decides_a_token_beside_the_configuration_has_to_be_equal(ninth: FirstEvaluation, part: str) -> None:
    assert known(replace(ninth, key={**ninth.key, part: "other"})) == {}


@pytest.mark.parametrize(
    "line", ["trainer.threads=2", "engine.slots=3", "agent.context=current", "panel.samples=2", "model.dtype=bfloat16"]
)
def test_what_decides_a_token_in_the_configuration_has_to_be_equal(ninth: FirstEvaluation, line: str) -> None:
    key, _, value = line.partition("=")
    OmegaConf.update(ninth.config, key, value)  # type: ignore[arg-type]
    assert known(ninth) == {}


def test_other_rewards_or_another_pace_do_not_matter_and_a_teacher_only_to_the_teachers_plans(
    ninth: FirstEvaluation,
) -> None:
    ninth.config.train.lr, ninth.config.seed = 1.0, 7
    assert [*known(ninth)] == [OWN, TEACHERS]
    ninth.config.teacher["_target_"] = "pilotrl.teacher.file.FileTeacher"
    assert [*known(ninth)] == [OWN]


def test_what_is_half_written_is_not_used(ninth: FirstEvaluation) -> None:
    """By a job that plays at the same time, or that was interrupted and has begun anew."""
    there = RunFolder(ninth.sweep / "0")
    lines = there.episodes.read_bytes().splitlines(keepends=True)
    there.episodes.write_bytes(b"".join(lines[:5]))  # of three tasks each
    assert [*known(ninth)] == [OWN]
    there.episodes.write_bytes(lines[0] + lines[1][:40])
    assert known(ninth) == {}
    there.episodes.write_bytes(b"".join(lines))
    assert [*known(ninth)] == [OWN, TEACHERS]
    replace(ninth, folder=there).begin()
    assert known(ninth) == {}


def test_what_broke_is_played_again(ninth: FirstEvaluation) -> None:
    there = RunFolder(ninth.sweep / "0")
    first, *others = there.episodes.read_text().splitlines(keepends=True)
    broken = json.dumps(json.loads(first) | {"outcome": "broken"}, ensure_ascii=False) + "\n"
    there.episodes.write_text("".join([broken, *others]))
    assert [*known(ninth)] == [TEACHERS]


def test_a_run_that_is_no_job_of_a_sweep_asks_nobody(
    ninth: FirstEvaluation, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation_cache, "acting_sha256", lambda model: pytest.fail("hashed for nothing"))
    alone: Any = RunFolder(tmp_path_factory.mktemp("alone"))
    assert FirstEvaluation.of(alone, ninth.config, "panel", None, "cpu") is None  # type: ignore[arg-type]
