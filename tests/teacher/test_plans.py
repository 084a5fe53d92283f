"""Plan datasets: written, graded and kept by the paper's rule, continued after any interruption, and followed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pilotrl import endpoint, plans
from pilotrl.cli.compose import composed_job, parse
from pilotrl.cli.preflight import prepare
from pilotrl.cli.teacher_tasks import teacher_tasks
from pilotrl.envs import load
from pilotrl.rewards.judge.rule import RuleJudge
from pilotrl.teacher import ExpertTeacher, plan_dataset
from pilotrl.teacher.file import FileTeacher
from pilotrl.teacher.plan_dataset import Candidate, Threshold, sift
from pilotrl.types import Episode, PlanScores, Task, Turn, UserError
from tests.endpoint.server import failure, said, serving

PAPER = Threshold(4.5, 4, 5)
FEW = ("env=toy", "train.steps=1", "train.tasks=3", "panel.tasks=2")
"""Five tasks."""


def is_judge(request: Mapping[str, Any]) -> bool:
    return "grade a plan" in request["messages"][0]["content"]


def grades(text: str) -> dict[str, int]:
    """A judge's scores of a plan, which depend on its text alone."""
    draw = Random(text)
    return {"correctness": draw.choice([3, 4, 5]), "executability": draw.choice([4, 5, 5]), "standardization": 5}


def shown_plan(request: Mapping[str, Any]) -> str:
    return re.findall(r"<plan>\n(.*?)\n</plan>", request["messages"][0]["content"], re.DOTALL)[-1]


def office(request: dict[str, Any], number: int) -> Any:
    """Teacher and judge in one server: each repeated request of the teacher gets another plan."""
    if "Say yes." in str(request):
        return said("Yes.")
    if is_judge(request):
        return said(json.dumps({"reason": "so it is"} | grades(shown_plan(request))))
    task = re.findall(r"<task>\n(.*?)\n</task>", request["messages"][0]["content"], re.DOTALL)[-1]
    return said(f"1. way {number} of {task}\n2. push it")


def line(url: str, out: Path, *more: str, cache: str = "null") -> list[str]:
    both = (
        "openai",
        f"base_url={url}",
        "credential=null",
        f"cache={cache}",
        "backoff=0.01",
        "attempts=2",
        "concurrency=1",
    )
    asked = [f"{node}{'=' if i == 0 else '.'}{key}" for node in ("teacher", "judge") for i, key in enumerate(both)]
    return [*FEW, *asked, "teacher.temperature=1", f"out={out}", *more]


def rows(out: Path) -> list[dict[str, Any]]:
    """The dataset, and the split of each row."""
    return [
        row | {"split": file.stem}
        for file in sorted(out.glob("data/*.parquet"))
        for row in pq.read_table(file).to_pylist()
    ]


def kept(*scores: tuple[int, int, int] | None, best: int = 9) -> list[int]:
    """Samples that are kept of plans with these grades."""
    made = [
        Candidate("toy", "train", "red", i, "Go.", (f"way {i}",), s and PlanScores(*s)) for i, s in enumerate(scores)
    ]
    return [one.sample for one in sift(made, PAPER, best)[0]]


def test_a_plan_is_kept_by_the_rule_of_the_paper() -> None:
    every = [(c, e, s) for c in range(1, 6) for e in range(1, 6) for s in range(1, 6)]
    assert [every[i] for i in sorted(kept(*every, best=125))] == [(4, 5, 5), (5, 5, 5)]
    assert Threshold(4.8, 4, 5).why_not(PlanScores(4, 5, 5)) == "mean below 4.8"


def test_the_best_plans_of_a_task_are_kept_and_of_equal_ones_the_first() -> None:
    assert kept((4, 5, 5), (5, 5, 5), None, (5, 4, 5), (5, 5, 5), (4, 5, 5), best=3) == [1, 4, 0]


def test_every_plan_is_kept_or_has_a_reason() -> None:
    one = Candidate("toy", "train", "red", 0, "Go.", ("go",), PlanScores(5, 5, 5))
    others = [
        one, replace(one, steps=("go on",)), replace(one, steps=("run",), scores=PlanScores(3, 5, 5)),
        replace(one, steps=None, scores=None), replace(one, steps=("walk",), scores=None),
    ]  # fmt: skip
    assert sift([one, *others], PAPER, 1) == ([one], {
        "says what another one says": 1, "passed, but is not among the best 1": 1, "correctness below 4": 1,
        "no answer, or none that is a plan": 1, "no grades": 1,
    })  # fmt: skip


def test_the_command_keeps_half_a_round_of_each_task_or_has_used_all_rounds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "set"
    with serving(office) as server:
        assert plans.main(line(server.url, out)) == 0
        asked = [request for request in server.seen if not is_judge(request) and "Say yes" not in str(request)]
    told = capsys.readouterr().out
    written: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for record in map(json.loads, (out / "written.jsonl").read_text().splitlines()):
        if "steps" in record:
            written.setdefault((record["split"], record["task"]), []).append(record)
        else:
            written[record["split"], record["task"]][record["sample"]]["scores"] = record["scores"]
    assert len(written) == 5
    for candidates in written.values():
        passed = [one["sample"] for one in candidates if one["scores"][0] >= 4 and one["scores"][1:] == [5, 5]]
        rounds = 1 + sum(len([s for s in passed if s < end]) < 2 for end in (4, 8))
        assert [one["sample"] for one in candidates] == [*range(4 * rounds)], "in rounds of four until two have passed"
    assert {len(candidates) for candidates in written.values()} > {4}, "some had to be tried again"
    found = rows(out)
    assert all((row["executability"], row["standardization"]) == (5, 5) and row["correctness"] >= 4 for row in found)
    assert all(sum(row["task"] == task for row in found) <= 2 for _, task in written)
    total = sum(map(len, written.values()))
    assert len(asked) == total
    assert f"{total} plans written for 5 tasks, {len(found)} kept" in told
    assert sum(map(int, re.findall(r"(\d+) not kept", told))) == total - len(found)


@pytest.mark.parametrize(
    ("good", "wanted"),
    [((), [*range(4, 8)]), ((0,), [*range(4, 8)]), ((0, 3), []), ((1, 6), []), ((1,), [*range(4, 8)])],
    ids=str,
)
def test_a_round_is_written_until_half_of_one_has_passed(
    tmp_path: Path, good: tuple[int, ...], wanted: list[int]
) -> None:
    """Passed plans of all rounds count together: (1, 6) is one in each of two."""
    with plan_dataset.PlanSet(tmp_path / "set", {}) as held:
        desk = plans.PlanCollector(
            {}, "toy", ExpertTeacher("exact"), RuleJudge(resolve=None), held, PAPER, candidates=4, rounds=3
        )
        for sample in range(8 if 6 in good else 4):
            scores = PlanScores(5, 5, 5 if sample in good else 4)
            held.add(replace(Candidate("toy", "train", "red", sample, "Go.", (f"way {sample}",)), scores=scores))
        assert desk.due(("train", "red")) == wanted
        assert desk.due(("train", "blue")) == [0, 1, 2, 3]


def test_a_finished_dataset_is_not_written_again_and_can_grow(tmp_path: Path) -> None:
    out = tmp_path / "set"
    with serving(office) as server:
        assert plans.main(line(server.url, out)) == 0
        before, asked = rows(out), server.asked
        assert plans.main(line(server.url, out)) == 0
        assert (rows(out), server.asked) == (before, asked)
        assert plans.main(line(server.url, out, "panel.tasks=3")) == 0
    assert {(row["split"], row["task"]) for row in before} < {(row["split"], row["task"]) for row in rows(out)}
    assert all(row in rows(out) for row in before)


@pytest.mark.parametrize("deaths", [{2, 33}, pytest.param({1, 9, 20, 21, 40}, marks=pytest.mark.slow)], ids=str)
def test_killed_anywhere_it_continues_and_sends_no_request_twice(tmp_path: Path, deaths: set[int]) -> None:
    process: subprocess.Popen[bytes] | None = None
    given: list[str] = []

    def script(request: dict[str, Any], number: int) -> Any:
        if "Say yes." in str(request):
            return said("Yes.")
        given.append(json.dumps(request))
        if len(given) in deaths and process:
            process.kill()
        # The same whole question has the same answer, and the samples of one are told apart by how many came before.
        return office(request, sum(text == given[-1] for text in given[:-1]) - lost[given[-1]])

    lost, out = Counter[str](), tmp_path / "killed"
    with serving(script) as server:
        command = [sys.executable, "-m", "pilotrl.plans", *line(server.url, out, cache=str(tmp_path / "cache.db"))]
        while True:
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"})
            code = process.wait()
            if code == 0:
                break
            assert code == -signal.SIGKILL
            lost[given[-1]] += 1  # the answer that nobody heard
    with serving(office) as other:
        assert plans.main(line(other.url, tmp_path / "whole")) == 0
    assert len(given) == other.asked + len(deaths), "only what was under way was asked again"
    assert rows(out) == rows(tmp_path / "whole")
    assert (out / "README.md").read_text() == (tmp_path / "whole" / "README.md").read_text()


def test_an_incomplete_last_line_is_cut_off(tmp_path: Path) -> None:
    one = Candidate("toy", "train", "red", 0, "Go.", ("go",))
    with plan_dataset.PlanSet(tmp_path / "set", {}) as held:
        held.add(one)
        held.grade(one, PlanScores(5, 5, 5))
        held.add(replace(one, sample=1))
    whole = (tmp_path / "set" / "written.jsonl").read_bytes()
    for size in range(len(whole)):
        (tmp_path / "set" / "written.jsonl").write_bytes(whole[:size])
        with plan_dataset.PlanSet(tmp_path / "set", {}) as held:
            assert len(held.of(("train", "red"))) == whole[:size].count(b'"steps"', 0, whole[:size].rfind(b"\n") + 1)
        assert whole.startswith((tmp_path / "set" / "written.jsonl").read_bytes())


def test_plans_without_a_reply_are_counted_and_asked_for_again_next_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, ill = tmp_path / "set", True

    def is_red(request: dict[str, Any]) -> bool:
        return bool(re.search(r"\bred\b", request["messages"][0]["content"]))

    def script(request: dict[str, Any], number: int) -> Any:
        if ill and is_red(request) and "Say yes." not in str(request):
            return failure(400) if is_judge(request) else said("I would rather not.")
        return office(request, number)

    with serving(script) as server:
        assert plans.main(line(server.url, out)) == 0
        told = capsys.readouterr().out
        assert "not kept: no answer, or none that is a plan" in told
        assert "of them " in told
        assert not any("red" in row["observation"] for row in rows(out))
        ill, before = False, server.asked
        assert plans.main(line(server.url, out)) == 0
        fresh = [request for request in server.seen if "Say yes." not in str(request)][before:]
    assert fresh
    assert all(map(is_red, fresh))
    assert any("red" in row["observation"] for row in rows(out))


def test_an_expert_writes_one_plan_a_task(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert plans.main([*FEW, f"out={tmp_path / 'set'}"]) == 0
    assert "5 plans written for 5 tasks, 5 kept" in capsys.readouterr().out
    for row in rows(tmp_path / "set"):
        assert [re.findall(r"the (\w+) button", step)[0] for step in row["plan"]] == row["task"].split("-")


def test_a_plan_dataset_loads_with_hugging_face_datasets(tmp_path: Path) -> None:
    from datasets import load_dataset

    assert plans.main([*FEW, f"out={tmp_path / 'set'}"]) == 0
    found = load_dataset(str(tmp_path / "set"), cache_dir=str(tmp_path / "cache"))
    loaded = [row | {"split": split} for split in sorted(found) for row in found[split]]
    assert loaded == rows(tmp_path / "set")
    assert {row["split"] for row in loaded} == {"train", "test"}


BAD = {
    "no folder": ((), "out: has no value; name the folder of the set, out=PLANS"),
    "unknown key": (("out=set", "plans.candidate=3"), "plans.candidate=3: there is no such key; the nearest is plans.candidates"),
    "no candidates": (("out=set", "plans.candidates=0"), "plans.candidates=0: must be at least 1"),
    "no rounds": (("out=set", "plans.rounds=0"), "plans.rounds=0: must be at least 1"),
    "no number": (("out=set", "plans.candidates=many"), "plans.candidates=many: "),
    "a grade that there is not": (("out=set", "plans.mean=5.5"), "plans.mean=5.5: must be from 1 to 5"),
    "unknown key of the run": (("out=set", "panel.taks=3"), "panel.taks=3: there is no such key"),
    "the same plan again and again": (
        ("out=set", "teacher=openai", "teacher.credential=null"), "teacher.temperature=0: writes the same plan 4 times"),
    "plans out of plans": (("out=set", "teacher=file"), "teacher=file: has its plans already"),
    "a dead teacher": (
        ("out=set", "teacher=openai", "teacher.credential=null", "teacher.base_url=http://127.0.0.1:9/v1", "plans.candidates=1"),
        "teacher.base_url: does not answer"),
    "something else": (("out=else",), "out=else: holds something else; name a new folder"),
    "another world": (("out=theirs",), "out=theirs: holds plans of other settings (env.max_turns is 9 there, 4 here)"),
    "no folder at all": (("out=else/notes.txt",), "out=else/notes.txt: cannot be written"),
}  # fmt: skip


@pytest.mark.parametrize(("words", "told"), BAD.values(), ids=BAD)
def test_what_is_wrong_is_one_line_and_leaves_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    told: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "notes.txt").write_text("mine")
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "settings.json").write_text(json.dumps({"env": {"max_turns": 9}}))
    before = sorted(tmp_path.rglob("*"))
    if told.startswith("out=theirs"):
        (tmp_path / "theirs" / "settings.json").write_text(json.dumps(settings(max_turns=9)))
    assert plans.main([*FEW, *words]) == 2
    line, rest = capsys.readouterr().err.split("\n", 1)
    assert line.startswith(f"pilotrl: {told}")
    assert not rest
    assert sorted(tmp_path.rglob("*")) == before


def settings(**env: Any) -> dict[str, Any]:
    return {
        "env": {"_target_": "pilotrl.envs.toy.ToyEnv", "max_turns": 4, "seed": 0} | env,
        "teacher": {"_target_": "pilotrl.teacher.ExpertTeacher", "wording": "exact"},
        "judge": {"_target_": "pilotrl.rewards.judge.rule.RuleJudge"},
    }


def test_a_dataset_does_not_depend_on_how_its_endpoint_is_reached() -> None:
    decide = {"model", "temperature", "max_tokens", "body"}
    assert {field.name for field in fields(endpoint.Address)} == plan_dataset.REACHING | decide


# The teacher that reads such a set.


def saved(path: Path, *plans: tuple[str, str, str, list[str]]) -> Path:
    """A dataset from elsewhere."""
    pq.write_table(
        pa.Table.from_pylist([dict(zip(plan_dataset.READ.names, plan, strict=True)) for plan in plans]), path
    )
    return path


def test_the_first_plan_of_a_task_is_followed_and_never_rewritten(tmp_path: Path) -> None:
    tutor = FileTeacher(
        path=str(saved(tmp_path / "p.parquet", ("toy", "red", "Go.", ["a", "b"]), ("toy", "red", "Go.", ["c"])))
    )
    turns = [Turn((), "", "x", "", True, True, 0.0)] * 3
    left = [tutor.plan(load("toy", split="train"), Episode(Task("toy", "red", "train", 0), 0, 0, "Go.", turns=turns[:t]), ())
            for t in range(4)]  # fmt: skip
    assert left == [("a", "b"), ("b",), (), ()]


def test_a_task_is_the_same_in_a_mixture(tmp_path: Path) -> None:
    tutor = FileTeacher(path=str(saved(tmp_path / "p.parquet", ("toy", "red", "Go.", ["a"]))))
    assert tutor.plan(load("toy", split="train"), Episode(Task("toy", "toy/red", "train", 0), 0, 0, "Go."), ()) == (
        "a",
    )


def test_a_plan_for_another_first_observation_is_refused(tmp_path: Path) -> None:
    world, (task, *_) = partial(load, "toy"), load("toy", split="train").tasks
    tutor = FileTeacher(path=str(saved(tmp_path / "p.parquet", ("toy", task, "Hello.", ["a"]))))
    with pytest.raises(UserError, match=f"its plan for {task} was written in another toy"):
        tutor.covers(lambda split: world(split=split), "toy", {"train": [task]})


@pytest.mark.parametrize(
    ("plan", "says"),
    [
        (None, "has a row without a plan"),
        (["a", None], "or a step without text"),
        ("push, then pull", r"cannot be read \(.*\); give Parquet with .*plan \(list<.*string>\)"),
    ],
)
def test_an_invalid_dataset_is_refused(tmp_path: Path, plan: Any, says: str) -> None:
    rows = [{"env": "toy", "task": "red", "observation": "Go.", "plan": plan}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "p.parquet")
    with pytest.raises(UserError, match=rf"^path={tmp_path}/p\.parquet: .*{says}") as caught:
        FileTeacher(path=str(tmp_path / "p.parquet"))
    assert "\n" not in str(caught.value)


def test_its_plans_are_the_current_plans(training: Callable[..., Any], tmp_path: Path) -> None:
    names = load("toy", split="train").tasks
    plans = [("toy", name, f"Press {name.replace('-', ', then ')}.", [f"one {name}", "two"]) for name in names]
    source = training(agent_spec={"teacher": FileTeacher(path=str(saved(tmp_path / "p.parquet", *plans)))}).source
    for episode in source.batch(0).episodes:
        assert all(turn.plan[:2] == (f"one {episode.task.id}", "two") for turn in episode.turns)


def test_plans_are_written_for_the_tasks_of_the_run(training: Callable[..., Any]) -> None:
    shape = ("env=toy", "train.steps=4", "train.tasks=5", "seed=3", "panel.tasks=6")
    config = composed_job(parse([]), list(shape)).config
    source = training(steps=4, tasks=5, seed=3).source
    played = set[str]()
    source.run_episodes = lambda specs, *_: played.update(spec.task.id for spec in specs) or []
    for step in range(4):
        source.batch(step)
    assert set(teacher_tasks(config)["train"]) == played
    config.train.resample = 1  # which tasks will take the place of others is not known
    assert teacher_tasks(config)["train"] == [*source.names]
    assert (len(teacher_tasks(config)["test"]), [*teacher_tasks(config, trains=False)]) == (6, ["test"])


def test_a_dataset_that_lacks_tasks_is_refused_before_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert plans.main([*FEW, "out=set"]) == 0
    run = [*FEW, "model=scratch", "model.lora.rank=null", "tracking=off", "teacher=file", "teacher.path=set"]
    prepare(run)
    before = sorted(tmp_path.rglob("*"))
    for more, told in {
        "seed=1": "has no plan for 3 of 5 tasks",
        "panel.tasks=9": "has no plan for 7 of 12 tasks",
        "env=maze": "has no plan for 5 of 5 tasks",
        "teacher.path=nowhere": "path=nowhere: holds no set of plans",
        "teacher.path=set/README.md": "cannot be read",
        "teacher.path=null": "path=null: name the folder",
    }.items():
        with pytest.raises(UserError, match=rf"^teacher\..*{re.escape(told)}") as caught:
            prepare([*run, more])
        assert "\n" not in str(caught.value)
    prepare([*run, "seed=1", "stage=planning"])  # whose plans are its own
    assert sorted(tmp_path.rglob("*")) == before
