"""Things of one's own are checked before anything is built: the class, its methods, its keywords."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pilotrl.__main__ import main
from pilotrl.store.run_folder import RunFolder

MINE = """
class Term:
    def __init__(self, *, low: float) -> None:
        self.low = low

    def __call__(self, episode):
        return self.low


class Prompts:
    def __init__(self, *, act: str) -> None:
        self.act = act

    def texts(self):
        asks = dict(plan="p", replan="r", act=self.act, act_free="a", act_turn="{next}", think="t")
        return asks | dict(plan_in_force="{plan}", left_out="-")


class Few:
    def texts(self):
        return {"act": "x"}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    name = f"mine_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(MINE)
    for group in ("reward", "prompts", "algorithm"):
        (tmp_path / group).mkdir()
    (tmp_path / "reward" / "mine.yaml").write_text(
        f"defaults: [paper]\nterms:\n  mine:\n    _target_: {name}.Term\n    low: 0.5\nweights:\n  mine: 1.0\n"
    )
    (tmp_path / "prompts" / "mine.yaml").write_text(f'_target_: {name}.Prompts\nact: "go {{step}}"\n')
    (tmp_path / "prompts" / "few.yaml").write_text(f"_target_: {name}.Few\n")
    (tmp_path / "algorithm" / "nameless.yaml").write_text("_target_: pilotrl.training.algorithms.sft.Sft\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


TERM = ("reward=mine", "stage.terms=[format,mine]")
BAD: dict[str, tuple[tuple[str, ...], str]] = {
    "a term without a weight": (
        ("reward=mine", "~reward.weights.mine"),
        "reward.terms.mine: has no weight; set reward.weights.mine",
    ),
    "a keyword that it does not have": (
        (*TERM, "+reward.terms.mine.lw=1"),
        "has no such key; the nearest is reward.terms.mine.low",
    ),
    "a keyword of another type": ((*TERM, "reward.terms.mine.low=much"), "reward.terms.mine.low=much"),
    "a keyword that it needs": ((*TERM, "~reward.terms.mine.low"), "reward.terms.mine.low: has no value"),
    "a term with the name of ours": (
        ("+reward.terms.format={_target_: x.Y}",),
        "reward.terms.format: is a term of ours",
    ),
    "a term that is no class": (("+reward.terms.x=5", "+reward.weights.x=1"), "reward.terms.x=5: must be a class"),
    "a class that cannot be called": (
        ("reward=mine", "reward.terms.mine._target_=pilotrl.envs.toy.ToyEnv"),
        "has no method __call__, which every reward term needs",
    ),
    "a set of prompts that lacks some": (("model.prompts=few",), "its texts() lack act_free, act_turn, left_out"),
    "a set that is not there": (
        ("model.prompts=mien",),
        "there is no such set of prompts; there are full, short, few, mine",
    ),
    "an algorithm that is no algorithm": (("algorithm._target_=pilotrl.envs.toy.ToyEnv",), "has no method advantages"),
    "an algorithm without a name": (("algorithm=nameless",), "algorithm.name: has no value"),
    "an engine that is no engine": (
        ("engine._target_=collections.OrderedDict",),
        "is not trusted and was not imported",
    ),
    "an engine without slots": (("~engine.slots",), "engine.slots: has no value"),
    "a group too small": (("train.group_size=1",), "train.group_size=1: must be at least 2 for algorithm=grpo"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_does_not_fit_is_one_line(folder: Path, capsys: pytest.CaptureFixture[str], case: str) -> None:
    words, says = BAD[case]
    assert main(["-cd", str(folder), "env=toy", "hydra.run.dir=run", *words]) == 2
    err = capsys.readouterr().err
    assert says in err
    assert err.count("\n") == 1
    assert not (folder / "run").exists()


def test_a_placeholder_that_nothing_fills_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "prompts" / "mine.yaml").write_text(
        (folder / "prompts" / "mine.yaml").read_text().replace("step", "stpe")
    )
    assert main(["-cd", str(folder), "env=toy", "model.prompts=mine"]) == 2
    assert "act cannot be filled in ('stpe')" in capsys.readouterr().err


def test_without_its_folder_nothing_of_ones_own_is_known(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run folder alone is no reason to import somebody's code."""
    assert main(["-cd", str(folder), "env=toy", "model=scratch", *TERM, "--dry-run"]) == 0
    capsys.readouterr()
    script = f"import sys; from pilotrl.__main__ import main; sys.exit(main(['env=toy', *{TERM}]))"
    done = subprocess.run([sys.executable, "-P", "-c", script], cwd="/", capture_output=True, text=True)
    assert done.returncode == 2
    assert "reward=mine: there is no such option" in done.stderr


def test_a_run_with_things_of_ones_own_goes_on_with_the_folder_named_again(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`resume=` stands alone, but for -cd."""
    words = ["env=toy", "model=scratch", *TERM, "hydra.run.dir=run"]
    made = RunFolder(folder / "run")
    made.config.parent.mkdir(parents=True)
    assert main(["-cd", str(folder), *words, "--dry-run"]) == 0
    made.config.write_text(capsys.readouterr().out.rpartition("\nstarts")[0])
    assert main(["-cd", str(folder), f"resume={made}", "train.steps=3"]) == 2
    assert "train.steps=3: resume= goes on with the run's own configuration" in capsys.readouterr().err


ALGORITHMS = """
import torch
from dataclasses import dataclass
from pilotrl.training.algorithms import Algorithm, Credit, Loss


class Base(Algorithm):
    def advantages(self, played):
        return Credit(torch.zeros(len(played.episode)).double())

    def loss(self, scored):
        return Loss(-scored.logprobs.sum())


class NoLoss(Algorithm):
    def advantages(self, played):
        return Credit(torch.zeros(len(played.episode)).double())


class Bare(Base):
    def loss(self, scored):
        return -scored.logprobs.sum()


class PerEpisode(Base):
    def advantages(self, played):
        return Credit(played.rewards)


class NotFinite(Base):
    def advantages(self, played):
        return Credit(torch.full((len(played.episode),), float("nan")))


class Unlearned(Base):
    def loss(self, scored):
        return Loss(torch.tensor(1.0))


class Engine:
    def __init__(self, *, slots: int) -> None: ...
    def submit(self, request): ...
    def step(self): ...
    def release(self, session): ...
    def take(self, version): ...
    def rest(self): ...
    def close(self): ...


class Old:
    def __init__(self, *, model, end, slots: int) -> None: ...
    def submit(self, request): ...
    def step(self): ...
    def release(self, session): ...
"""
WRONG = {
    "NoLoss": "has no method loss, which every algorithm needs",
    "Bare": "algorithm.loss: gave tensor(3., grad_fn=<NegBackward0>); must be a Loss whose value is a scalar with gradient",
    "PerEpisode": "algorithm.advantages: gave Credit(",
    "NotFinite": "of three calls; must be a Credit with a finite number a call",
    "Unlearned": "must be a Loss whose value is a scalar with gradient",
    "Missing": "cannot be imported (module",
}


@pytest.mark.parametrize("name", WRONG)
def test_an_algorithm_that_gives_something_else_is_told_before_anything_is_written(
    folder: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    module = f"odd_{folder.name}"
    (folder / f"{module}.py").write_text(ALGORITHMS)
    (folder / "algorithm" / "odd.yaml").write_text(f"_target_: {module}.{name}\nname: odd\n")
    assert main(["-cd", str(folder), "env=toy", "algorithm=odd", "hydra.run.dir=run"]) == 2
    err = capsys.readouterr().err
    assert WRONG[name] in err
    assert err.count("\n") == 1
    assert not (folder / "run").exists()


def test_folders_and_files_that_cannot_be_used_are_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module = f"odd_{folder.name}"
    (folder / f"{module}.py").write_text(ALGORITHMS)
    cases = {
        (str(folder / "nowhere"), "--help"): "is no folder; name the one that holds your options",
        (str(folder), f"engine._target_={module}.Engine"): "takes no keyword model, which every engine is given",
        (str(folder), f"engine._target_={module}.Old"): "has no method take, which every engine needs",
        (str(folder), "algorithm=mine"): "-cd FOLDER adds yours",
        (str(folder), "engine._target_=nodots"): "give MODULE.CLASS",
    }
    for words, says in cases.items():
        assert main(["-cd", *words]) == 2
        err = capsys.readouterr().err
        assert says in err
        assert err.count("\n") == 1
    (folder / "algorithm" / "torn.yaml").write_text("name: [")
    assert main(["-cd", str(folder), "env=toy", "algorithm=torn"]) == 2
    assert "torn.yaml" in capsys.readouterr().err
    (folder / "broken.py").write_text("def (")
    assert main(["-cd", str(folder), "env=toy", "engine._target_=broken.X"]) == 2
    assert "engine._target_=broken.X: cannot be imported (invalid syntax" in capsys.readouterr().err
    (folder / "needs.py").write_text("import no_such_package")
    assert main(["-cd", str(folder), "env=toy", "engine._target_=needs.X"]) == 2
    assert "install no_such_package" in capsys.readouterr().err


def test_an_option_with_the_name_of_ours_is_refused_not_ignored(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "algorithm" / "grpo.yaml").write_text("_target_: mine.Grpo\nname: grpo\n")
    assert main(["-cd", str(folder), "env=toy"]) == 2
    assert "algorithm=grpo is an option of ours; give yours another name" in capsys.readouterr().err
