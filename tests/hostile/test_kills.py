"""Whatever is killed, however and wherever: what goes on ends the same, and no unfinished command ends with 0."""

from __future__ import annotations

import random
import re
import shlex
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from pilotrl import PACKAGE
from pilotrl.tracking.sync_state import RunInfo, SyncState
from tests.hostile.kills import Ended, Kill, Server
from tests.runs.test_progressive import outcome as outcome_of_chain
from tests.runs.test_resume import SMALL, result

RUN = (
    *SMALL,
    "model.lora.rank=null",
    "train.steps=3",
    "panel.tasks=2",
    "checkpoint.every=1",
    "checkpoint.calls_every=2",
)
ONE = ("stage=adherence",)
CHAIN = ("stage=progressive", "stage.order=[adherence,coordination]", "stage.planner=teacher", "train.steps=4")
SWEEP = ("-m", *ONE, "seed=0,1")
RANKS = (*ONE, "trainer.devices=2", "train.steps=2")
PLANS = ("env=toy", "train.steps=1", "train.tasks=6", "panel.tasks=2", "teacher=expert")
STEP = "pilotrl.training.module:PilotModule.training_step"
CODES = {signal.SIGKILL: (-9,), signal.SIGTERM: (143,), signal.SIGINT: (130,), signal.SIGHUP: (129,)}
KINDS = ("single", "chain", "sweep", "ranks", "plans", "report", "sync")


@dataclass
class Killer:
    """Runs commands, kills them, and knows what they leave where nobody does."""

    server: Server
    model: Path
    made: Callable[[Path], SyncState]
    """Makes the folder of a run that is over, for MLflow."""
    wholes: dict[str, tuple[Any, list[str], float]] = field(default_factory=dict)

    def order(self, kind: str, name: str) -> tuple[str, list[str]]:
        """The command that makes one kind of thing under this name."""
        run = [*RUN, f"model.path={self.model}"]
        if kind == "sweep":
            return "pilotrl", [*run, *SWEEP, f"hydra.sweep.dir={name}"]
        if kind in ("single", "chain", "ranks"):
            more = {"single": ONE, "chain": CHAIN, "ranks": RANKS}[kind]
            return "pilotrl", [*run, *more, f"hydra.run.dir={name}"]
        if kind == "plans":
            return "pilotrl.plans", [*PLANS, f"out={name}"]
        if kind == "report":
            self.whole("single")
            return "pilotrl.report", ["whole-single", f"out={name}"]
        uri = f"sqlite:///{self.server.place}/{name}.db"
        if not (self.server.place / name).exists():
            state = self.made(self.server.place / name)
            state.begin(uri, RunInfo("pilotrl", "run", {"seed": 1}, {}, traces=1))
            state.end("FINISHED", 1.9e9)
        return "pilotrl.sync", [name, "--uri", uri]

    def outcome(self, kind: str, name: str) -> Any:
        """Everything that has to be the same."""
        path = self.server.place / name
        if kind in ("single", "ranks"):
            return result(path)
        if kind == "chain":
            return outcome_of_chain(path)
        if kind == "sweep":
            return [result(path / str(number)) for number in range(2)]
        if kind == "sync":
            return in_mlflow(path, f"sqlite:///{path}.db")
        files = {
            str(file.relative_to(path)): file.read_bytes().replace(name.encode(), b"")
            for file in path.rglob("*")
            if file.is_file() and not file.name.startswith(".")
        }
        if kind == "plans":  # a plan that was there already is graded first
            files["written.jsonl"] = b"\n".join(sorted(files["written.jsonl"].splitlines()))
        return files

    def whole(self, kind: str) -> tuple[Any, list[str], float]:
        """What it ends with where nobody interrupts it, the files that it replaces, and the seconds that it takes."""
        if kind not in self.wholes:
            command, words = self.order(kind, f"whole-{kind}")
            log = self.server.place / f"replaced-{kind}.txt"
            log.touch()
            ended = self.server.run(command, words, log=log)
            assert ended.code == 0, ended.said
            self.wholes[kind] = self.outcome(kind, f"whole-{kind}"), log.read_text().splitlines(), ended.seconds
        return self.wholes[kind]

    def kill(self, kind: str, name: str, kill: Kill) -> Ended:
        """Start it, or go on with it, and kill it; or it comes to its end before."""
        ended = self.server.run(*self.order(kind, name), kill=kill)
        number = signal.Signals(kill["signal"])
        assert ended.left == []
        assert ended.code in (*CODES[number], *([0] if "after" in kill else [])), (kill, ended)
        if ended.code > 0:
            said = "interrupted" if number == signal.SIGINT else f"ended by {number.name}"
            assert len(re.findall(rf"^pilotrl: {said}; .+$", ended.said, re.MULTILINE)) == 1, ended.said
            assert "Traceback" not in ended.said
        return ended

    def same(self, kind: str, name: str) -> None:
        """It goes on to its end, and ends as if nothing had been."""
        ended = self.server.run(*self.order(kind, name))
        assert ended.code == 0, ended.said
        assert self.outcome(kind, name) == self.whole(kind)[0]


def in_mlflow(folder: Path, uri: str) -> tuple[list[Any], list[str]]:
    """Every point, and every trace, that MLflow has of a run."""
    client, run = MlflowClient(uri), str(SyncState(folder).read()["run_id"])
    there = client.get_run(run)
    points = [
        (name, point.step, point.value)
        for name in sorted(there.data.metrics)
        for point in client.get_metric_history(run, name)
    ]
    traces = client.search_traces(locations=[there.info.experiment_id], run_id=run)
    return points, sorted(trace.info.tags["mlflow.traceName"] + trace.info.tags["when"] for trace in traces)


@pytest.fixture(scope="module")
def killer(
    warm: Path, finished: Callable[[Path], SyncState], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Killer]:
    server = Server(tmp_path_factory.mktemp("kills"), PACKAGE.parent)
    yield Killer(server, warm, finished)
    server.close()


def at(place: str, number: signal.Signals = signal.SIGKILL, **more: Any) -> dict[str, Any]:
    return {"signal": number, "at": place, **more}


def replacing(name: str, number: signal.Signals = signal.SIGKILL, **more: Any) -> dict[str, Any]:
    return at("os:replace", number, match=f"{name}$", **more)


HOSTILE: dict[str, Kill] = {
    "while it is composed": at("pilotrl.cli.preflight:check_learner", signal.SIGINT),
    "while weights are loaded": at("pilotrl.models.policy:load_model", signal.SIGTERM),
    "at the evaluation set": replacing(r"panel\.json"),
    "in an evaluation": at("pilotrl.analysis.terminal:Display.panel", signal.SIGINT, call=2),
    "in a step": at(STEP, signal.SIGTERM),
    "half way to a checkpoint": replacing(r"step-000001\.ckpt"),
    "after a checkpoint": replacing(r"step-000001\.ckpt", when="after"),
    "in another step": at(STEP, signal.SIGINT),
    "at kept calls": replacing(r"calls/step-000002\.safetensors"),
    "at a checkpoint": replacing(r"step-000002\.ckpt", signal.SIGHUP),
    "at the end": replacing(r"summary\.json"),
}


def test_a_run_that_is_killed_everywhere_ends_the_same(killer: Killer) -> None:
    """One run, and all that can befall it."""
    for where, kill in HOSTILE.items():
        ended = killer.kill("single", "one", kill)
        if ended.code > 0 and where != "while it is composed":
            assert f"; resume={killer.server.place}/one goes on from its last checkpoint\n" in ended.said
    killer.same("single", "one")


def test_a_stage_that_is_killed_names_the_folder_of_its_chain(killer: Killer) -> None:
    ended = killer.kill("chain", "chain", at(STEP, signal.SIGTERM, call=3))
    assert (killer.server.place / "chain" / "1-adherence" / "summary.json").exists()
    assert f"; resume={killer.server.place}/chain goes on from its last checkpoint\n" in ended.said
    killer.same("chain", "chain")


def test_a_sweep_that_is_killed_says_what_is_left(killer: Killer) -> None:
    ended = killer.kill("sweep", "sweep", at(STEP, signal.SIGINT, call=4))
    assert "sweep/1 (seed=1): is not finished" in ended.said
    assert "1 of 2 jobs are not finished; this goes on with those and no other" in ended.said
    assert f"; resume={killer.server.place}/sweep/1 goes on from its last checkpoint\n" in ended.said
    (again,) = re.findall(r"^  python -m pilotrl (.*)$", ended.said, re.MULTILINE)
    assert Counter(shlex.split(again)) == Counter(killer.order("sweep", "sweep")[1])
    killer.same("sweep", "sweep")


@pytest.mark.parametrize(
    ("kind", "places"),
    {
        "plans": (at("pilotrl.teacher.plan_dataset:PlanSet.add", signal.SIGTERM, call=5), replacing(".*")),
        "report": (replacing(".*", signal.SIGTERM), replacing(r"\.html")),
        "sync": (
            at("alembic.ddl.impl:DefaultImpl.create_table", match="scorers$", when="after"),
            at("pilotrl.tracking.mlflow_sync:MlflowSync._send_metrics", signal.SIGTERM),
            at("pilotrl.tracking.mlflow_sync:MlflowSync._send_traces", signal.SIGKILL, when="after"),
        ),
    }.items(),
    ids=["plans", "report", "sync"],
)
def test_what_makes_no_run_is_killed_and_started_again(killer: Killer, kind: str, places: Sequence[Kill]) -> None:
    for kill in places:
        killer.kill(kind, f"{kind}-killed", kill)
    killer.same(kind, f"{kind}-killed")


def test_two_ranks_die_together(killer: Killer) -> None:
    for kill in (at(STEP, signal.SIGTERM), replacing(r"step-000001\.ckpt")):
        killer.kill("ranks", "ranks", kill)
    killer.same("ranks", "ranks")


@pytest.mark.parametrize(
    ("command", "words", "place"),
    [
        ("pilotrl.evaluate", ["checkpoint=whole-single", "panel.tasks=2"], "pilotrl.analysis.terminal:Display.panel"),
        ("pilotrl.audit", ["whole-single", "judges=rule"], "pilotrl.audit.episodes:read"),
    ],
)
def test_what_begins_anew_says_so(killer: Killer, command: str, words: Sequence[str], place: str) -> None:
    killer.whole("single")
    ended = killer.server.run(command, words, kill=at(place, signal.SIGTERM))
    assert (ended.code, ended.left) == (143, []), ended.said
    assert "pilotrl: ended by SIGTERM; give the same line again\n" in ended.said


SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
SHARES = {"single": 30, "chain": 20, "sweep": 12, "ranks": 8, "plans": 10, "report": 10, "sync": 10}
"""Kills of each kind, of a hundred."""


def moments(killer: Killer, kind: str, draw: random.Random) -> Iterator[Kill]:
    """Each file that is replaced in turn, before and after, and random moments between them."""
    _, replaced, seconds = killer.whole(kind)
    names = [re.escape("/".join(Path(path).parts[-2:])) for path in dict.fromkeys(replaced)]
    draw.shuffle(names)
    while True:
        for name in names or [""]:
            yield {"signal": draw.choice(SIGNALS), "after": draw.uniform(0, seconds)}
            if name:
                yield replacing(
                    name.replace(f"whole-{kind}", ".*"), draw.choice(SIGNALS), when=draw.choice(["before", "after"])
                )


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_kills(killer: Killer, kind: str, request: pytest.FixtureRequest, tell: Callable[[str], None]) -> None:
    """At most three kills a time, then to the end. `--kills` says how many, of a hundred for all kinds."""
    wanted = round(SHARES[kind] * request.config.getoption("--kills") / 100)
    draw, number, kills = random.Random(kind), 0, Counter[str]()
    due = moments(killer, kind, draw)
    while kills.total() < wanted:
        name, number = f"{kind}-{number}", number + 1
        for _ in range(draw.randint(1, 3)):
            kill = next(due)
            ended = killer.server.run(*killer.order(kind, name), kill=kill)
            assert ended.left == [], (kill, ended)
            assert ended.code in (0, *CODES[kill["signal"]], -kill["signal"]), (kill, ended)
            if ended.code:
                kills[f"{kill['signal'].name} {'at a file' if 'at' in kill else 'at a moment'}"] += 1
        killer.same(kind, name)
        shutil.rmtree(killer.server.place / name)
    tell(
        f"{kind}: {kills.total()} kills, all the same afterwards ({', '.join(f'{n} {k}' for k, n in sorted(kills.items()))})"
    )
