"""Old names are refused with the new one, and old run folders are read with the names of today."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from pilotrl import PACKAGE
from pilotrl.__main__ import main
from pilotrl.cli.compose import composed_job, parse, resolved
from pilotrl.cli.renamed import KEYS, METRICS, translated
from pilotrl.cli.stored_config import read_elsewhere
from pilotrl.cli.validate import config_keys
from pilotrl.models.policy import base_of, resolve
from pilotrl.store.run_folder import RunFolder
from pilotrl.training.algorithms import grpo

OLD = Path(__file__).with_name("old_config.yaml")
"""As a run of stage=adherence env=webshop wrote it before."""


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    old = RunFolder(tmp_path / "old")
    old.config.parent.mkdir(parents=True)
    shutil.copy(OLD, old.config)
    shutil.copytree(PACKAGE / "models" / "weights" / "nano", old / "policy")
    return old


@pytest.mark.parametrize(("old", "new"), list(KEYS.items()))
def test_an_old_key_is_refused_with_the_new_one_named(capsys: pytest.CaptureFixture[str], old: str, new: str) -> None:
    assert main(["env=toy", f"{old}=1"]) == 2
    assert f"{old}=1: is called {new} now" in capsys.readouterr().err


def test_a_class_that_moved_is_refused_with_its_new_place(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["env=toy", "judge._target_=pilotrl.judge.rule.RuleJudge"]) == 2
    assert "is called pilotrl.rewards.judge.rule.RuleJudge now" in capsys.readouterr().err


def test_an_old_run_is_read_with_the_names_of_today(folder: RunFolder) -> None:
    words = ["stage=adherence", "env=webshop", "seed=3", "train.steps=4", "panel.tasks=16", "panel.samples=1"]
    today = resolved(composed_job(parse([]), [*words, "trainer.threads=1"]).config)
    before = resolved(read_elsewhere(folder))
    aside = {
        "root",
        "tracking.uri",
        "tracking.experiment",
        "tracking.traces",
        "tracking.model_mb",
        "train.max_broken",
        "train.resample",
        "train.lag",
        "trainer.deadline",
        "env._name_",
        "model.max_length",
        "model.max_plan_tokens",
        "teacher.wording",
    }
    assert before["curriculum.name"] == "none"
    assert {key: value for key, value in before.items() if key not in aside} == {
        key: value for key, value in today.items() if key not in aside
    }


def test_an_old_run_cannot_go_on_but_may_be_a_parent(folder: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([f"resume={folder}"]) == 2
    assert (
        f"was begun before keys were renamed, and cannot go on; start a new run, parent={folder}"
        in capsys.readouterr().err
    )
    assert main([f"parent={folder}", "env=toy", "--dry-run"]) != 2 or "parent" not in capsys.readouterr().err


def test_a_run_of_today_is_left_as_it_is() -> None:
    config = OmegaConf.to_container(composed_job(parse([]), ["env=toy", "algorithm=ppo"]).config)  # type: ignore[arg-type]
    assert translated(config) == config  # type: ignore[arg-type]


def test_new_names_exist() -> None:
    known = {*config_keys(), *(f"algorithm.{name}" for name in grpo.Grpo.__dataclass_fields__)}
    assert set(KEYS.values()) <= known
    assert not set(KEYS) & known
    assert not set(METRICS) & set(METRICS.values())


def test_adapters_of_an_older_installation_find_the_shipped_weights(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "/somewhere/pilotrl/weights/nano"}')
    assert base_of(str(tmp_path)) == resolve("pilotrl:nano")
