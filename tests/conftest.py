"""What several tests need: a language model of thirty thousand parameters that knows ToyEnv's words, and small runs of it."""

from __future__ import annotations

import faulthandler
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from lightning import Trainer
from torch.utils.data import DataLoader

from pilotrl import PACKAGE, prompts
from pilotrl.analysis.statistics import panel_block
from pilotrl.config import search_path, trust
from pilotrl.envs import load
from pilotrl.envs.toy import ToyEnv
from pilotrl.models import from_scratch, policy
from pilotrl.models.policy import Policy
from pilotrl.prompts.chat import Chat
from pilotrl.rewards.judge.rule import RuleJudge
from pilotrl.rollout.agent import AgentSpec, EpisodeSpec
from pilotrl.rollout.scheduler import run_episodes
from pilotrl.runs.setup import engine_of
from pilotrl.store.records import to_record
from pilotrl.store.run_folder import RunFolder
from pilotrl.tracking.sync_state import SyncState
from pilotrl.training import algorithms
from pilotrl.training.data import Rollouts, Scoring
from pilotrl.training.module import PilotModule
from pilotrl.types import Call, Episode, Role, Task, Turn

TARGETS = ["q_proj", "v_proj", "down_proj"]
LOCAL = {"_target_": "pilotrl.engine.local.LocalEngine", "slots": 16}
LIMITS: dict[Role, int] = {"planner": 48, "executor": 24}
"""Tokens of a reply."""
RESULTS = '{"train": {}, "panel": {}}'
"""The least that is a summary.json."""


def options(algorithm: str) -> dict[str, Any]:
    """What `conf/` gives an algorithm."""
    return search_path.settings("algorithm", algorithm)


@pytest.fixture
def tell(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """What is told stands on the terminal at the end, from whichever process it was."""
    return lambda text: record_property("told", text)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = terminalreporter.getreports("passed") + terminalreporter.getreports("failed")
    for kind, text in chain(*(report.user_properties for report in reports)):
        if kind == "told":
            terminalreporter.write_line(str(text))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--own", metavar="FOLDER", help="a folder of your own, whose environments and algorithms are tested too"
    )
    parser.addoption("--kills", type=int, default=100, help="how often -m slow kills commands in tests/hostile")


def pytest_configure(config: pytest.Config) -> None:
    """What is tested beside ours: the examples, and a folder of the user's own."""
    own = config.getoption("--own")
    if own and not Path(own).is_dir():
        raise pytest.UsageError(f"--own {own}: is no folder")
    for place in (PACKAGE.parent / "examples", *([own] if own else [])):
        search_path.add(Path(place))


@pytest.fixture(autouse=True)
def _own_folders(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder that a test names with -cd is forgotten after it with the modules that lie there, as is trust=; classes in
    tests are trusted."""
    monkeypatch.setattr(search_path, "FOLDERS", [*search_path.FOLDERS])
    monkeypatch.setattr(trust, "MODULES", {"tests"})
    monkeypatch.setattr(sys, "path", [*(places := sys.path)])
    yield
    own = {Path(place).resolve() for place in sys.path} - {Path(place).resolve() for place in places}
    for name, module in [*sys.modules.items()]:
        if (file := getattr(module, "__file__", None)) and Path(file).resolve().parent in own:
            del sys.modules[name]


@pytest.fixture(autouse=True)
def _no_log_stays_open() -> Iterator[None]:
    """What Hydra made the process log to is closed; pytest's own handlers are of other classes."""
    yield
    for handler in [one for one in logging.root.handlers if type(one) in (logging.FileHandler, logging.StreamHandler)]:
        logging.root.removeHandler(handler)
        handler.close()


@pytest.fixture(autouse=True)
def _slow_ones_take_their_time(request: pytest.FixtureRequest) -> None:
    """The limit that pytest sets on a test that hangs is for the others."""
    if request.node.get_closest_marker("slow"):
        faulthandler.cancel_dump_traceback_later()


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Small tensors are slower on many."""
    torch.set_num_threads(1)


def build(folder: Path, width: int) -> Path:
    """A random Llama of two layers and a tokenizer learned from ToyEnv."""
    words = [text.format(next=i, plan="", step="") for text in prompts.load("short").values() for i in range(1, 5)]
    corpus = [*from_scratch.texts(load("toy", split="train"), 60), *words]
    sizes = {"vocabulary": 360, "width": width, "inner": 2 * width, "layers": 2, "heads": 4, "kv_heads": 2}
    from_scratch.build(folder, corpus, **sizes, positions=512, seed=0, copying=0)
    return folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of thirty thousand random weights."""
    return build(tmp_path_factory.mktemp("models") / "tiny", width=32)


@pytest.fixture(scope="session")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a hundred thousand weights which saw demonstrations until they solved a third of ToyEnv."""
    folders = tmp_path_factory.mktemp("models")
    start = build(folders / "cold", width=64)
    run = Training(
        start, "sft", steps=80, tasks=32, group_size=1, micro_tokens=4096, lr=3e-3, agent_spec={"demonstrates": True}
    )
    run.source.finished = lambda: int(run.module.version) > 20 and run.success() > 0.35
    run.fit()
    policy.save(run.policy.model, run.source.agent_specs[0].chat.tokenizer, folders / "warm")
    return folders / "warm"


@pytest.fixture(scope="session")
def tokenizer(tiny: Path) -> Any:
    return policy.load_tokenizer(str(tiny))


@pytest.fixture(scope="session")
def chat(tokenizer: Any) -> Chat:
    return Chat(tokenizer)


@pytest.fixture
def model(tiny: Path) -> Any:
    """A fresh copy of the weights, with our attention function."""
    return policy.load_model(str(tiny), "float32").eval()


def adaplan(chat: Chat) -> AgentSpec:
    """Plans and acts by itself; `dataclasses.replace` makes others of it."""
    return AgentSpec(
        chat=chat,
        prompts=prompts.load("short"),
        plans="always",
        thinks=False,
        shows="step",
        context="append",
        window=None,
        replies="line",
        teacher_plans=False,
        demonstrates=False,
        candidates=1,
        graded=False,
        detours=0.0,
        own_actions=0.0,
        loose=0.0,
        max_length=512,
        max_tokens=LIMITS,
        adapters={"planner": None, "executor": None},
        temperature=1.0,
        top_p=1.0,
        version=0,
    )


@pytest.fixture(scope="session")
def agent_spec(chat: Chat) -> AgentSpec:
    return adaplan(chat)


@pytest.fixture
def toy() -> ToyEnv:
    env = load("toy", split="train")
    assert isinstance(env, ToyEnv)
    return env


def scoring(**changes: Any) -> Scoring:
    values: dict[str, Any] = {
        "judges": {"toy": RuleJudge(resolve=None)},
        "terms": ["format", "adherence", "outcome"],
        "weights": {"format": 1.0, "adherence": 1.0, "outcome": 1.0, "plan_quality": 1.0},
        "overlong_buffer": 1.0,
        "overlong_penalty": 0.5,
        "trains": {"executor": LIMITS["executor"]},
        "unselected": False,
    }
    return Scoring(**values | changes)


@dataclass
class Graded:
    """A scoring that is a function of the episodes."""

    score: Callable[[Sequence[Episode]], None]
    unselected: bool = False

    def __call__(self, episodes: Sequence[Episode]) -> None:
        self.score(episodes)

    def begin(self, episode: Episode) -> None:
        """Nothing takes its time here."""


class Training:
    """A small run: `fit` trains `module` on `source`. Random players get their rewards from how long they talk."""

    def __init__(
        self, folder: Path, algorithm: str = "grpo", *, agent_spec: dict[str, Any] | None = None, **changes: Any
    ) -> None:
        """`agent_spec` changes the player, `options` the algorithm, `model` is the folder's, loaded otherwise, or with what each
        role has of its `roles`; other changes go to module or source."""
        chat = Chat(policy.load_tokenizer(str(folder)))
        chosen = algorithms.build({**options(algorithm), **changes.get("options", {})})
        roles, trains = changes.get("roles", "shared"), changes.get("trains", ["executor"])
        rank = 4 if roles == "separate" else None
        torch.manual_seed(0)  # new adapters are random
        loaded = changes.get("model") or policy.load_model(str(folder), "float32", False, rank, 8.0, TARGETS, roles)
        self.policy = Policy(loaded, chosen.critic)
        self.policy.set_trainable(trains)
        adapters = {role: None if roles == "shared" else role for role in policy.ROLES}
        settings = {
            "seed": 0,
            "steps": 2,
            "minibatches": 1,
            "micro_tokens": 512,
            "temperature": 1.0,
            "lr": 1e-2,
            "lr_schedule": "constant",
            "lr_warmup": 0,
            "weight_decay": 0.01,
            "grad_clip": 1.0,
            "value_lr": 1e-2,
            "muon_lr": None,
            "lag": 0,
        }
        source = {"tasks": 4, "group_size": 3, "shuffle_rewards": False, "resample": 0, "pools": None}
        settings |= {key: value for key, value in changes.items() if key in settings}
        source |= {key: value for key, value in changes.items() if key in source}
        given: dict[str, Any] = {"teacher_plans": True, "temperature": settings["temperature"], "adapters": adapters}
        self.module = PilotModule(self.policy, chosen, **settings)  # type: ignore[arg-type]
        self.source = Rollouts(
            env="toy",
            split="train",
            make_env=lambda: load("toy", split="train"),
            engine=engine_of(self.policy, chat.end, LOCAL, roles, folder),
            agent_specs=[replace(adaplan(chat), **given | (agent_spec or {}))],
            scoring=scoring(trains={role: LIMITS[role] for role in trains}),
            trains=trains,
            steps=settings["steps"],  # type: ignore[arg-type]
            seed=settings["seed"],  # type: ignore[arg-type]
            lag=settings["lag"],  # type: ignore[arg-type]
            run_episodes=self.module.lagged.wrapped(run_episodes),
            version=lambda: int(self.module.version),
            on_episode=lambda step, done, total: None,
            **source,  # type: ignore[arg-type]
        )

    def graded(self, score: Callable[[Sequence[Episode]], None]) -> None:
        """From now on episodes are scored so."""
        self.source.scoring = Graded(score)  # type: ignore[assignment]

    def fit(self, source: Any = None, **changes: Any) -> Training:
        """Changes are Lightning's; `source` stands in for the loader of batches."""
        settings = {"accelerator": "cpu", "devices": 1, "max_epochs": 1, "logger": False} | changes
        silence_libraries = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
        self.trainer = Trainer(**settings, **silence_libraries)  # type: ignore[arg-type]
        self.trainer.fit(self.module, DataLoader(self.source, batch_size=None) if source is None else source)
        return self

    def success(self) -> float:
        """Share of some tasks that the policy solves with the teacher's plans, sampled at temperature 1."""
        agent_spec, names = replace(self.source.agent_specs[0], demonstrates=False), self.source.names[:48]
        specs = [EpisodeSpec(Task("toy", name, "train", 0), i, 0, agent_spec) for i, name in enumerate(names)]
        episodes = run_episodes(specs, self.source.make_env, self.source.engine, ("success", int(self.module.version)))
        return fmean(episode.outcome == "solved" for episode in episodes)

    def weights(self) -> torch.Tensor:
        return torch.cat([parameter.detach().flatten() for parameter in self.policy.parameters()])


@pytest.fixture
def training(tiny: Path) -> Callable[..., Training]:
    return lambda *given, **changes: Training(tiny, *given, **changes)


@pytest.fixture(scope="session")
def finished() -> Callable[[Path], SyncState]:
    """Makes the folder of a run that is over: a step, an episode of a turn before and after it, and a policy."""

    def make(folder: Path) -> SyncState:
        (folder / "policy").mkdir(parents=True)
        (folder / "policy" / "config.json").write_text("{}")
        (folder / "policy" / "model.safetensors").write_bytes(bytes(1000))
        (folder / "metrics.jsonl").write_text('{"step": 1, "time": 1.7e9, "train/loss": 0.5}\n')
        turn = Turn(("press red",), "Action: press[red]", "press[red]", "Done.", True, True, 1.0, adherence=2)
        calls = [Call(role, [1] * 9, [2] * 3, [0.0] * 3, "end", (), turn=1) for role in ("planner", "executor")]
        scored: dict[str, Any] = {
            "outcome": "solved",
            "score": 1.0,
            "reward": 1.0,
            "terms": {"outcome": 1.0},
            "tokens": 6,
        }
        episode = Episode(Task("toy", "red", "test", 0), 0, 0, "Press red.", None, [turn], calls, **scored)
        with RunFolder(folder).lines("episodes.jsonl") as lines:
            for step, when in enumerate(("before", "after")):
                lines.write(to_record(episode, f"{when}/own plans, sampled", step))
        panel = {"name": "toy-test-1x1", "sha256": "", "tasks": 1, "samples_per_task": 1}
        measured = {"eval": panel_block([episode], [episode], [episode], [episode]), "eval_teacher": None}
        summary = {"panel": panel, **measured, "train": {"steps": 1}, "weights_sha256": "0"}
        RunFolder(folder).summary.write_text(json.dumps(summary))
        return SyncState(folder)

    return make


class Server:
    """`mlflow server` on a port of its own, with a database that outlives it."""

    def __init__(self, place: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self.log = place / "server.log"
        store = ["--backend-store-uri", f"sqlite:///{place}/server.db", "--artifacts-destination", str(place / "files")]
        self.command = [sys.executable, "-m", "mlflow", "server", *store, "--port", str(self.port), "--workers", "1"]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        alone = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, env=alone, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        self.wait_for(self.answers)

    def answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=5) as reply:
                return bool(reply.status == 200)
        except (OSError, urllib.error.URLError):
            return False

    def kill(self) -> None:
        """With all its workers."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """However slow the machine is."""
        end = time.monotonic() + 300
        while not condition():
            assert time.monotonic() < end, "it did not happen in time"
            time.sleep(0.1)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    one = Server(tmp_path)
    one.start()
    yield one
    one.kill()
