"""Every question under `experiments/` composes, can run, and has its page."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import pytest

from pilotrl import PACKAGE
from pilotrl.cli.compose import composed_jobs, parse
from pilotrl.cli.preflight import prepare
from pilotrl.cli.validate import check
from pilotrl.types import UserError

PLACE = PACKAGE.parent / "experiments"
QUESTIONS = sorted(path.stem for path in PLACE.glob("*.yaml"))
SMALL = ("env=toy", "model=scratch")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs would land in the working folder."""
    monkeypatch.chdir(tmp_path)


def jobs(*words: str) -> list[Any]:
    found, sweep = composed_jobs(parse(["-cd", str(PLACE), *words]))
    assert sweep
    for job in found:
        check(job.config)
    return [job.config for job in found]


@pytest.mark.parametrize("question", QUESTIONS)
def test_every_job_can_run_and_every_arm_has_three_seeds(question: str) -> None:
    seeds: dict[str, list[int]] = {}
    for config in jobs("-cn", question, "parent=null"):  # another command of its page may make the parent
        config, seed = config.copy(), config.seed
        config.seed = 0
        seeds.setdefault(str(config), []).append(seed)
    assert len(seeds) > 1
    assert all(len(set(each)) == len(each) >= 3 for each in seeds.values())


@pytest.mark.parametrize("question", QUESTIONS)
def test_every_question_has_a_page_whose_command_is_its_own(question: str) -> None:
    page = (PLACE / f"{question}.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (.+)$", page, re.MULTILINE) == ["Question", "Command", "Result", "Revision"]
    (command,) = re.findall(r"^    python -m pilotrl (.+)$", page, re.MULTILINE)
    assert command == f"-cd experiments -cn {question}"
    assert f"({question}.md)" in (PLACE / "README.md").read_text(encoding="utf-8")


def test_every_arm_is_used() -> None:
    used = " ".join(path.read_text(encoding="utf-8") for path in PLACE.glob("*.yaml"))
    assert all(re.search(rf"\b{path.stem}\b", used) for path in PLACE.glob("arm/*.yaml"))


def test_grpo_ppo_shuffled() -> None:
    found = jobs("-cn", "grpo_ppo_shuffled")
    arms = [(config.algorithm.name, config.train.shuffle_rewards) for config in found]
    assert arms == [arm for arm in (("grpo", False), ("ppo", False), ("grpo", True)) for _ in range(3)]
    assert [config.seed for config in found] == [0, 1, 2] * 3
    assert {(config.stage.name, config.env["_target_"]) for config in found} == {
        ("adherence", "pilotrl.envs.webshop.WebShop")
    }


def test_a_part_of_a_question_can_be_run(tmp_path: Path) -> None:
    found = jobs("-cn", "grpo_ppo_shuffled", *SMALL, "seed=4", "arm=grpo,shuffled", "train.steps=2")
    told = [(config.seed, config.train.shuffle_rewards, config.train.steps) for config in found]
    assert told == [(4, False, 2), (4, True, 2)]
    order = prepare(["-cd", str(PLACE), "-cn", "grpo_ppo_shuffled", *SMALL])
    assert order.argv[:4] == ["-cd", str(PLACE), "-cn", "grpo_ppo_shuffled"]
    assert any(word.startswith("hydra.sweep.dir=") for word in order.argv)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["-cn", "grpo_ppo_shufled"], "there is no grpo_ppo_shufled.yaml in {place}; the nearest is grpo_ppo_shuffled"),
        (["-cd", "nowhere", "-cn", "mine"], "--config-dir nowhere: is no folder; name the one that holds your options"),
        (["-cn", "grpo_ppo_shuffled", "arm=pop"], "arm=pop: there is no such option; the nearest is ppo"),
        (["-cn", "grpo_ppo_shuffled", "arn=ppo"], "arn=ppo: there is no such key; the nearest is arm"),
        (["-cn", "grpo_ppo_shuffled", "train.steps=0"], "train.steps=0: must be at least 1"),
    ],
)
def test_mistakes_about_a_question_are_said_in_one_line(words: list[str], says: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as refused:
        prepare(["-cd", str(PLACE), *words])
    assert says.format(place=PLACE) in str(refused.value)
    assert "\n" not in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def test_readme_and_the_whole_table_say_what_the_default_runs_did() -> None:
    made = runpy.run_path(str(PLACE / "headline.py"))
    records = made["measured"]()
    found = made["corrected"]([*made["rows"](records)])
    assert made["page"](records, found) == (PLACE / "headline" / "README.md").read_text(encoding="utf-8")
    assert made["brief"](found) in (PLACE.parent / "README.md").read_text(encoding="utf-8")
