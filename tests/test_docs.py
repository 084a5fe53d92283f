"""What the pages say about the repository is so: the picture of the imports, the commands of the front page, the links."""

from __future__ import annotations

import re
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from textwrap import dedent
from types import ModuleType
from xml.etree import ElementTree

import pytest
import torch

from pilotrl import envs
from pilotrl.cli.compose import composed_job, parse
from pilotrl.cli.validate import check
from pilotrl.config import trust
from pilotrl.rewards.judge.rule import verdict
from pilotrl.training import algorithms
from tests.training.algorithms.records import played

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("experiments/*.md")]


def script(name: str) -> ModuleType:
    """A file of docs/ as a module."""
    spec = spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec
    assert spec.loader
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_picture_of_the_imports_is_what_they_are() -> None:
    made = script("make_architecture")
    assert made.PICTURE.read_text() == made.picture(), "run python docs/make_architecture.py"


def test_what_a_longer_way_implies_is_not_drawn() -> None:
    made = script("make_architecture")
    rooms = {"a": {"b", "c"}, "b": {"c"}, "c": set()}
    assert made.floors(rooms) == [["c"], ["b"], ["a"]]
    assert made.arrows(rooms) == [("a", "b"), ("b", "c")]
    with pytest.raises(RecursionError):
        made.floors({"a": {"b"}, "b": {"a"}})


def test_the_commands_of_the_front_page_are_those_that_are_run() -> None:
    """`.ci/run` runs the second one."""
    first, second = re.findall(r"^    (.*pip install -c .*)$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert first.endswith("&& pip install -c constraints.txt -e . && python -m pilotrl stage=adherence env=webshop")
    assert second in (ROOT / ".ci" / "run").read_text().splitlines()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^(```.*?^```|    .*?)$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"[a-z]+:|#", target):
            assert (page.parent / target.partition("#")[0]).exists(), target


def test_the_picture_of_an_episode_marks_what_was_rewritten_and_nothing_that_was_frozen() -> None:
    made = script("make_episode_picture")
    assert made.fresh(["a", "b", "c"], None, 1) == set()
    assert made.fresh(["a", "x", "b", "c"], ["a", "b", "c"], 2) == {1}  # put in: what comes after it is as it was
    assert made.fresh(["other", "b"], ["a", "b"], 2) == set()
    turns = [
        {"plan": plan, "action": "go <on>", "observation": "& then", "valid": True, "adherence": 2}
        for plan in (["a", "b"], ["a", "x", "b"], ["a", "x", "b"])
    ]
    episode = {"turns": turns, "task": {"env": "toy"}, "observation": "Begin.", "outcome": "solved", "score": 1.0}
    drawn = ElementTree.fromstring(made.picture(episode))
    assert sum(part.get("fill") == made.NEW for part in drawn.iter()) == 2  # the legend, and x once


@pytest.fixture
def keydoor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the two files of the tutorial."""
    page = (ROOT / "docs" / "tutorial.md").read_text()
    blocks = [dedent(block) for block in re.findall(r"(?:^(?:    .*)?\n)+", page, re.MULTILINE)]
    (code,) = [block for block in blocks if "class KeyDoor" in block]
    (values,) = [block for block in blocks if "_target_: keydoor" in block]
    (tmp_path / "keydoor.py").write_text(code)
    (tmp_path / "env").mkdir()
    (tmp_path / "env" / "keydoor.yaml").write_text(values)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "keydoor", raising=False)
    return tmp_path


@pytest.mark.parametrize("split", ["train", "dev", "test"])
def test_the_environment_of_the_tutorial_can_be_trained_in(keydoor: Path, split: str) -> None:
    """Its expert solves every task within par, and the rules take each of its actions for what its plan says."""
    arguments = parse(["-cd", str(keydoor), "env=keydoor", f"env.split={split}"])
    config = composed_job(arguments, arguments.overrides).config
    check(config)
    env = envs.build({**config.env})
    assert len(env.tasks) == len(set(env.tasks)) >= 12
    for task in env.tasks:
        _, info = env.reset(options={"task": task})
        par, turns, over = info["par"], 0, False
        while not over:
            assert env.expert
            (step, *_), action = env.expert.plan(), env.expert.action()
            assert verdict(step, action) == 2
            _, _, terminated, truncated, info = env.step(action)
            over, turns = terminated or truncated, turns + 1
        assert info["solved"]
        assert turns == par


def test_the_algorithm_of_the_tutorial_is_that_of_the_reference_and_leaves_out_what_has_no_reward(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages = [(ROOT / "docs" / name).read_text() for name in ("tutorial.md", "extending.md")]
    one, other = (
        [dedent(b).strip() for b in re.findall(r"(?:^(?:    .*)?\n)+", page, re.MULTILINE) if "class Rloo" in b]
        for page in pages
    )
    assert one == other
    (tmp_path / "loo.py").write_text(one[0])
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "loo", raising=False)
    trust.add(["loo"])
    algorithm = algorithms.build({"_target_": "loo.Rloo", "name": "loo"})
    rewards = torch.tensor([1.0, 0.25, 0.25, torch.nan], dtype=torch.float64)
    found = algorithm.advantages(played(rewards, torch.zeros(4).long(), torch.arange(4))).advantages
    assert found.tolist() == [0.75, -0.375, -0.375, 0.0]
