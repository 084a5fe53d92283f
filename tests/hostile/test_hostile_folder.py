"""A run folder of somebody else, a trap in every file, opened by every command: nothing of it runs, nothing is sent
for it, no secret gets out, nothing is written elsewhere."""

from __future__ import annotations

import functools
import json
import shlex
import shutil
import socketserver
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from pilotrl import CONF, evaluate, sync, xray
from pilotrl.__main__ import main
from pilotrl.audit import __main__ as audit
from pilotrl.cli import preflight
from pilotrl.cli.compose import parse
from pilotrl.cli.evaluation_request import evaluated
from pilotrl.cli.typed_again import reaching
from pilotrl.config import trust
from pilotrl.report import __main__ as report
from pilotrl.report import html
from pilotrl.store.records import from_record
from pilotrl.store.run_folder import RUN, RunFolder
from pilotrl.tracking.mlflow_client import check_near, is_default, sync_command
from pilotrl.types import UserError
from tests.conftest import build

CANARY = "c4n4ry-5f1d"
"""The value of an environment variable that a folder asks for."""
SMALL = (
    "env=toy",
    "model=scratch",
    "tracking=off",
    "panel.tasks=2",
    "panel.samples=1",
    "panel.greedy=false",
    "train.steps=1",
)
SMALL += (
    "model.max_length=512",
    "model.max_plan_tokens=8",
    "model.max_action_tokens=8",
    "drift.every=0",
    "trainer.threads=1",
)


class Listener(socketserver.ThreadingTCPServer):
    """Records whatever is sent to it, and answers nothing."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []
        super().__init__(("127.0.0.1", 0), Ear)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Ear(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        self.server.heard.append(self.request.recv(65536))  # type: ignore[attr-defined]


@pytest.fixture
def listener() -> Iterator[Listener]:
    with Listener() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


class Bomb:
    """A pickle that makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


@pytest.fixture(scope="module")
def composed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The configuration of a small run, as a folder holds it."""
    job = preflight.composed_jobs(parse(list(SMALL)))[0][0]
    return OmegaConf.to_yaml(job.config)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("weights") / "policy", width=32)


class Hostile:
    """The folder, and what must not happen."""

    def __init__(self, place: Path, composed: str, weights: Path, url: str) -> None:
        self.place, self.url, self.marker = place, url, place / "marker"
        self.run, self.work = RunFolder(place / "given" / "run"), place / "work"
        self.work.mkdir()
        (self.run.path / ".hydra").mkdir(parents=True)
        self.run.config.write_text(composed)
        node = {"runtime": {"cwd": str(self.run.path), "config_sources": []}, "overrides": {"task": []}, "job": {}}
        node["launcher"] = {"_target_": "subprocess.Popen", "args": ["touch", str(self.marker)]}
        self.run.hydra.write_text(OmegaConf.to_yaml(OmegaConf.create({"hydra": node})))
        self.overrides("env=toy", "model.name=${oc.env:SECRETK}")
        shutil.copytree(weights, self.run.policy)
        (self.run.path / "torch.py").write_text(f"open({str(self.marker)!r}, 'w')")
        (self.run.path / "evil.py").write_text(
            f"open({str(self.marker)!r}, 'w')\nclass Env:\n    reset = step = plan = None\n"
        )
        sent = {"uri": url, "run_id": "0" * 32, "id": "1", "experiment": "x", "status": "FINISHED", "created": 1.0}
        (self.run.path / "mlflow.json").write_text(
            json.dumps(sent | {"run_name": "x", "params": {}, "tags": {}, "parent": None})
        )
        self.before = self.tree()

    def pickles(self) -> None:
        """Instead of tensors."""
        for name in ("calls/step-000001", "checkpoints/step-000001", "probe", "value", "policy/adapter_model"):
            (self.run.path / name).parent.mkdir(exist_ok=True)
            for suffix in (".pt", ".ckpt", ".bin", ".safetensors"):
                torch.save(Bomb(self.marker), self.run.path / f"{name}{suffix}")

    def overrides(self, *lines: str) -> None:
        (self.run.path / ".hydra" / "overrides.yaml").write_text(OmegaConf.to_yaml(list(lines)))

    def set(self, **nodes: Any) -> None:
        """Change the configuration; dots of keys are written as two underscores."""
        held = OmegaConf.create(self.run.config.read_text())
        for key, value in nodes.items():
            OmegaConf.update(held, key.replace("__", "."), value, merge=False, force_add=True)
        self.run.config.write_text(OmegaConf.to_yaml(held))

    def tree(self) -> set[Path]:
        return {path for path in self.place.rglob("*") if "work" not in path.parts or path.parent.name != "multirun"}

    def outside(self) -> list[Path]:
        """What is new, beside the run folder and the working folder's own multirun/."""
        mine = (self.run.path, self.work / "multirun")
        new = self.tree() - self.before
        return [path for path in new if not any(path.is_relative_to(place) for place in mine)]


@pytest.fixture
def hostile(
    tmp_path: Path, composed: str, weights: Path, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Hostile]:
    monkeypatch.setenv("SECRETK", CANARY)
    monkeypatch.setattr(trust, "MODULES", set[str]())
    monkeypatch.delenv(RUN, raising=False)
    made = Hostile(tmp_path, composed, weights, listener.url)
    monkeypatch.chdir(made.work)
    yield made
    assert listener.heard == []
    assert not made.marker.exists()
    assert made.outside() == []
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or CANARY.encode() not in path.read_bytes(), path
    assert "evil" not in sys.modules


def judge(url: str) -> dict[str, Any]:
    """An API model as a judge, at an address that the folder names."""
    held: Any = OmegaConf.to_container(OmegaConf.load(CONF / "judge" / "openai.yaml"))
    return {**held, "base_url": url, "credential": "SECRETK", "cache": None}


def commands(folder: Path) -> dict[str, Callable[[], int]]:
    """Every command that reads a run folder, on this one."""
    return {
        "evaluate": lambda: evaluate.main([f"checkpoint={folder}"]),
        "resume": lambda: main([f"resume={folder}"]),
        "dry run": lambda: main([f"resume={folder}", "--dry-run"]),
        "again": lambda: main([*SMALL, f"hydra.run.dir={folder}"]),
        "parent": lambda: main([*SMALL, f"parent={folder}", "--dry-run"]),
        "audit": lambda: audit.main([str(folder)]),
        "report": lambda: report.main([str(folder)]),
        "sync": lambda: sync.main([str(folder)]),
        "xray": lambda: xray.main([str(folder)]),
    }


POPEN = {"_target_": "subprocess.Popen", "args": ["touch", "MARKER"]}
EVIL = {"_target_": "evil.Env", "split": "train"}
TRAPS: dict[str, dict[str, Any]] = {
    "judge": {"judge": "JUDGE"},
    "judge of a vote": {
        "judge": {
            "_target_": "pilotrl.rewards.judge.ensemble.Ensemble",
            "vote": "median",
            "members": {"monkey": "JUDGE"},
        }
    },
    "teacher": {"teacher": "JUDGE", "teacher___target_": "pilotrl.teacher.openai.OpenAiTeacher"},
    "endpoint": {"model__endpoint": "JUDGE", "model__endpoint___target_": "pilotrl.engine.openai.OpenAiModel"},
    "tracking": {"tracking__uri": "URL"},
    "another database": {"tracking__uri": "sqlite:////GIVEN/elsewhere/mlflow.db"},
    "server of an environment": {
        "env": {
            "_target_": "pilotrl.envs.agentgym.AgentGym",
            "split": "train",
            "name": "textcraft",
            "url": "URL",
            "tasks": None,
            "max_turns": 2,
            "timeout": 1.0,
        }
    },
    **{
        f"a {key} of an MCP server": {
            "env": {
                **{"_target_": "pilotrl.envs.mcp.Mcp", "split": "train", "command": None, "url": "", "variables": []},
                **{"tasks_file": None, "check": None, "max_turns": 2, "start_timeout": 5.0, "timeout": 1.0},
                "result_chars": 99,
                key: value,
            }
        }
        for key, value in {
            "command": ["touch", "MARKER"],
            "url": "URL",
            "variables": ["SECRETK"],
            "tasks_file": "/GIVEN/env.yaml",
            "check": "evil.check",
        }.items()
    },
    **{
        f"a {key} of verifiers": {
            "env": {
                **{"_target_": "pilotrl.envs.verifiers.Verifiers", "split": "train", "taskset": None, "config": {}},
                **{"held_out": {}, "tasks": None, "solved_at": 1.0, "max_turns": 2, "timeout": 1.0},
                key: value,
            }
        }
        for key, value in {
            "taskset": "evil",
            "config": {"task": {"rewards": {"x": {"fn": "evil.check"}}}},
            "held_out": {"place": "URL"},
        }.items()
    },
    **{f"popen as {node}": {node: POPEN} for node in ("env", "judge", "teacher", "algorithm", "engine")},
    "popen as a term": {"reward__terms": {"x": POPEN}, "reward__weights__x": 1.0},
    "popen as prompts": {"model__prompts": POPEN},
    "popen as an endpoint": {"model__endpoint": POPEN},
    "popen as a vote": {
        "judge": {"_target_": "pilotrl.rewards.judge.ensemble.Ensemble", "vote": "median", "members": {"x": POPEN}}
    },
    "popen in a list": {"env__more": [[{"deep": POPEN}]]},
    **{f"a file of the folder as {node}": {node: EVIL} for node in ("env", "judge", "teacher", "algorithm", "engine")},
    "a class that is no environment": {"env": {"_target_": "pilotrl.endpoint.cache.Cache", "path": "GIVEN/made.db"}},
    "a class that ours import": {"env": {"_target_": "pilotrl.cli.slurm.RunFolder", "path": "x"}},
    "a module of gymnasium's": {
        "env": {
            "_target_": "pilotrl.envs.gym.GymnasiumText",
            "split": "train",
            "id": "evil:X-v0",
            "kwargs": {},
            "max_turns": 2,
        }
    },
    "an environment by path": {
        "env": {
            "_target_": "pilotrl.envs.mixture.Mixture",
            "split": "train",
            "trains": ["../../../../../../../../GIVEN/env"],
            "weights": None,
            "holds_out": [],
            "options": None,
        }
    },
    "prompts by path": {"model__prompts": "../../../../../../../../GIVEN/env"},
    "a wheel": {"model__scratch": None, "model__path": "wheel:evil.sub/x.gguf"},
    "a secret as a name": {"model__name": "${oc.env:SECRETK}"},
    "a secret as a number": {"seed": "${oc.env:SECRETK}"},
    "a secret as steps": {"train__steps": "${oc.env:SECRETK}"},
    "a secret in an address": {"tracking__uri": "URL/${oc.env:SECRETK}"},
    "a configuration without end": {"model__name": "${agent.name}", "agent__name": "${model.name}"},
    "its own parent": {"parent": "."},
    "names that are paths": {"stage__name": "../../x", "agent__name": "../x", "algorithm__name": "a/b"},
    "a root elsewhere": {"root": "GIVEN/elsewhere"},
}


UNUSED = {(trap, "evaluate") for trap in ("tracking", "another database", "a root elsewhere")}


def filled(value: Any, hostile: Hostile) -> Any:
    if isinstance(value, dict):
        return {key: filled(item, hostile) for key, item in value.items()}
    if isinstance(value, list):
        return [filled(item, hostile) for item in value]
    if value == "JUDGE":
        return judge(hostile.url)
    words = {"URL": hostile.url, "MARKER": str(hostile.marker), "GIVEN": str(hostile.run.path.parent)[1:]}
    return (
        functools.reduce(lambda text, word: text.replace(*word), words.items(), value)
        if isinstance(value, str)
        else value
    )


READERS = ("parent", "audit", "report", "sync", "xray")
HARMLESS = {("its own parent", "evaluate"), ("its own parent", "resume"), ("a root elsewhere", "resume"), *UNUSED}
"""What an evaluation or a resumed run has no use for, or may use."""


def lay(hostile: Hostile, *traps: str) -> None:
    (hostile.run.path.parent / "env.yaml").write_text(OmegaConf.to_yaml(filled(POPEN, hostile)))
    hostile.before = hostile.tree()
    for trap in traps:
        hostile.set(**{key: filled(value, hostile) for key, value in TRAPS[trap].items()})


@pytest.mark.parametrize("trap", TRAPS)
def test_a_configuration_is_data(hostile: Hostile, trap: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever it names is refused in a line."""
    lay(hostile, trap)
    for name in ("evaluate", "resume"):
        if (trap, name) not in HARMLESS:
            code, out = commands(hostile.run.path)[name](), "".join(capsys.readouterr())
            assert (code, out.count("\n")) == (2, 1), (name, out)
            assert CANARY not in out, name


@pytest.mark.parametrize(
    "traps",
    [
        ("judge", "popen as env", "a secret as a name", "tracking", "names that are paths"),
        ("a file of the folder as env", "a secret as steps", "a root elsewhere", "its own parent"),
        ("popen in a list", "a secret as a number"),
    ],
    ids=lambda traps: traps[0],
)
def test_who_only_reads_uses_none_of_it(
    hostile: Hostile, traps: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    lay(hostile, *traps)
    for name in (*READERS, "again", "dry run"):
        code, out = commands(hostile.run.path)[name](), "".join(capsys.readouterr())
        assert code in (0, 2), (name, out)
        assert CANARY not in out, (name, out)


def test_a_wrong_class_is_refused_on_ones_own_command_line_too(
    hostile: Hostile, capsys: pytest.CaptureFixture[str]
) -> None:
    popen = "{_target_: subprocess.Popen, args: [touch, " + str(hostile.marker) + "]}"
    nodes = ("env", "judge", "teacher", "algorithm", "engine", "model.prompts", "model.endpoint")
    for node in nodes:
        assert main([*SMALL, f"++{node}={popen}"]) == 2
        assert "subprocess.Popen: is not trusted and was not imported" in capsys.readouterr().err
    assert main([*SMALL, "env._target_=evil.Env", "trust=[evil!]"]) == 2
    assert "evil! is no name of a module" in capsys.readouterr().err


def test_nothing_is_unpickled(hostile: Hostile, capsys: pytest.CaptureFixture[str]) -> None:
    hostile.pickles()
    for name in ("xray", "resume", "parent"):
        assert commands(hostile.run.path)[name]() in (0, 2)
        assert not hostile.marker.exists(), name


def test_what_is_typed_counts(
    hostile: Hostile, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The refusal says what to type, and that works by paste; another value does not."""
    hostile.set(judge=judge("http://127.0.0.1:9/v1"), model__path="x/${oc.env:SECRETK}")
    assert main([f"resume={hostile.run}", "--dry-run"]) == 2
    told = shlex.split(capsys.readouterr().err.partition("where you type it: ")[2])
    assert told == [f"resume={hostile.run}", "model.path=x/${oc.env:SECRETK}"]
    assert main([*told, "--dry-run"]) == 2
    told = shlex.split(capsys.readouterr().err.partition("where you type it: ")[2])
    assert told[2:] == ["judge.base_url=http://127.0.0.1:9/v1", "judge.credential=SECRETK"]
    assert preflight.prepare(told).folder is not None
    with pytest.raises(
        UserError, match=r"judge\.base_url=http://127\.0\.0\.1:8/v1: resume= goes on with the run's own"
    ):
        preflight.prepare([told[0], told[1], "judge.base_url=http://127.0.0.1:8/v1", told[3]])
    with pytest.raises(UserError, match=r"judge\.credential=SECRETK"):
        evaluated([f"checkpoint={hostile.run}", "judge.base_url=http://127.0.0.1:9/v1", "model.path=pilotrl:nano"])


@pytest.mark.parametrize("key", ["command", "url", "variables", "tasks_file"])
def test_what_starts_an_mcp_server_is_typed_lists_as_a_whole(
    hostile: Hostile, key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    lay(hostile, f"a {key} of an MCP server")
    assert main([f"resume={hostile.run}"]) == 2
    told = shlex.split(capsys.readouterr().err.partition("where you type it: ")[2])
    assert [word.partition("=")[0] for word in told] == ["resume", f"env.{key}"]
    assert main(told) == 2
    said = capsys.readouterr().err
    assert "where you type it" not in said
    assert "goes on with the run's own" not in said


def test_a_folder_is_compared_with_the_command_in_what_a_log_leaves_out(hostile: Hostile) -> None:
    """`monkey` holds the word key, and what stands below such a name is shown nowhere."""
    vote = {
        "_target_": "pilotrl.rewards.judge.ensemble.Ensemble",
        "vote": "median",
        "members": {"monkey": judge(hostile.url)},
    }
    hostile.set(judge=vote)
    command = [*SMALL, f"hydra.run.dir={hostile.run}", "judge=ensemble", "~judge.members.rule", "~judge.members.openai"]
    command.append("+judge.members.monkey={_target_: pilotrl.rewards.judge.rule.RuleJudge}")
    with pytest.raises(UserError, match=r"judge\.members\.monkey\.base_url"):
        preflight.prepare(command)


CHAINS: dict[str, dict[str, Any]] = {
    "an override that leads elsewhere": {"overrides": {"task": ["stage=progressive", "hydra.searchpath=[pkg://evil]"]}},
    "an override of a secret": {"overrides": {"task": ["stage=progressive", "train.steps=${oc.env:SECRETK}"]}},
    "an override with an address": {
        "overrides": {"task": [*SMALL, "stage=progressive", "judge=openai", "judge.credential=SECRETK"]}
    },
    "a folder of options": {"runtime": {"config_sources": [{"provider": "main", "path": "/"}]}},
    "a name that is a path": {"job": {"config_name": "../../x"}},
}


@pytest.mark.parametrize("trap", CHAINS)
def test_the_hydra_node_of_a_chain_is_data(hostile: Hostile, trap: str, capsys: pytest.CaptureFixture[str]) -> None:
    chain = OmegaConf.load(CONF / "stage" / "progressive.yaml")
    hostile.set(stage__order=chain.stage.order, stage__lengths=chain.stage.lengths, stage__name="progressive")
    node: dict[str, Any] = {
        "runtime": {"cwd": str(hostile.run), "config_sources": [{"provider": "main", "path": str(CONF)}]}
    }
    node |= {"overrides": {"task": [*SMALL, "stage=progressive"]}, "job": {"config_name": "config"}} | CHAINS[trap]
    node["runtime"]["cwd"] = str(hostile.run)
    hostile.run.hydra.write_text(OmegaConf.to_yaml(OmegaConf.create({"hydra": node})))
    assert main([f"resume={hostile.run}", "--dry-run"]) == 2
    out = "".join(capsys.readouterr())
    assert CANARY not in out
    assert out.count("\n") == 1, out


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [x, x]\nb: &b [*a, *a]\n" + "".join(f"c{i}: &c{i} [*b, *b]\n" for i in range(9)),
        "a: " + "[" * 5000 + "]" * 5000,
        "a: " + "x" * 2**19,
        "a: !!python/object/apply:os.system [touch marker]",
    ],
    ids=["references", "depth", "size", "python"],
)
def test_yaml_that_grows_is_not_read(hostile: Hostile, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    hostile.run.config.write_text(text)
    for name in ("evaluate", "resume", "audit", "parent", "report"):
        assert commands(hostile.run.path)[name]() == 2, name
    assert "Traceback" not in "".join(capsys.readouterr())


def test_links_are_not_written_through(hostile: Hostile, capsys: pytest.CaptureFixture[str]) -> None:
    precious = hostile.place / "precious"
    precious.mkdir()
    (precious / "file").write_text("as it was")
    hostile.before = hostile.tree()
    hostile.set(tracking__uri=None)
    (hostile.run / "mlflow.json").write_text(json.dumps({"uri": f"sqlite:///{hostile.run.path.parent}/mlflow.db"}))
    for name, target in ((".lock", precious / "file"), ("metrics.jsonl", precious / "file"), ("report", precious)):
        (hostile.run / name).symlink_to(target)
        (hostile.run / "episodes.jsonl").write_text("")
        for command in ("resume", "sync", "audit", "report"):
            if command != "report" or name == "report":
                assert commands(hostile.run.path)[command]() == 2, (name, command)
                assert "link" in capsys.readouterr().err or True
        (hostile.run / name).unlink()
    assert (precious / "file").read_text() == "as it was"


def test_sizes_are_not_believed(finished: Any, tmp_path: Path) -> None:
    """A line that says how many tokens a call had does not decide how much memory is taken."""
    folder = tmp_path / "run"
    finished(folder)
    lines = (folder / "episodes.jsonl").read_text().splitlines()
    record = json.loads(lines[0])
    for size in (10**10, -1, 10**30):
        record["calls"][0]["prompt"] = size
        with pytest.raises(ValueError, match="a call of"):
            from_record(record)


def test_a_name_in_a_folder_is_no_path_of_a_report() -> None:
    view = SimpleNamespace(panel=SimpleNamespace(name="x/../../../ESC\0APED" + "y" * 999, runs=[], configurations=[]))
    view = SimpleNamespace(**vars(view), pictures={"groups": b""}, all=[], all_effects=[])
    names = html.pictures_of([view, view])  # type: ignore[list-item]
    assert [name for name in names if "/" in name or "\0" in name or len(name) > 200] == []
    assert len(names) == 2


def test_a_database_that_keeps_its_files_elsewhere_gets_none(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    check_near(f"{tmp_path}/mlartifacts/1/artifacts", uri)
    check_near(f"file://{tmp_path}/mlartifacts/1/artifacts", uri)
    for place in (
        "http://127.0.0.1:9/x",
        "s3://bucket/x",
        "/etc",
        f"{tmp_path}/../x",
        "file://host/x",
        "mlflow-artifacts:/1",
    ):
        with pytest.raises(OSError, match="counts only where its address is typed"):
            check_near(place, uri)


def test_the_default_database_is_near(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "multirun" / "day" / "run"
    run.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    near = ("multirun/mlflow.db", "mlflow.db", f"{tmp_path}/multirun/mlflow.db", f"{tmp_path}/multirun/day/mlflow.db")
    far = ("other/mlflow.db", "other.db", f"{run}/x/mlflow.db", "../x/mlflow.db", "multirun/mlflow.db?x=1")
    assert [is_default(f"sqlite:///{path}", run) for path in near] == [True] * 4
    assert [is_default(f"sqlite:///{path}", run) for path in far] == [False] * 5
    assert not any(
        is_default(uri, run) for uri in ("http://x", "./mlflow.db", "sqlite+x:///mlflow.db", "file:mlflow.db")
    )
    assert sync_command(run, "http://u:p@host/x") == f"python -m pilotrl.sync {run} --uri 'http://***@host/x'"
    assert sync_command(run, f"sqlite:///{tmp_path}/multirun/mlflow.db") == f"python -m pilotrl.sync {run}"


@pytest.mark.parametrize(
    "env", ["toy", "webshop", "alfworld", "textcraft", "babyai", "iqa", "maze", "wordle", "tools", "worlds"]
)
def test_a_run_of_ones_own_needs_nothing_typed(env: str, tmp_path: Path) -> None:
    job = preflight.composed_jobs(parse([f"env={env}"]))[0][0]
    assert reaching(RunFolder(tmp_path / "run"), job.config) == {}
