"""What several tests need: a language model of thirty thousand parameters that knows ToyEnv's words, and small runs of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from lightning import Trainer
from omegaconf import OmegaConf
from torch.utils.data import DataLoader

from pilotrl import CONF, algorithms, policy, prompts, scratch
from pilotrl.context import Chat
from pilotrl.data import Rollouts, Scoring
from pilotrl.engine.local import LocalEngine
from pilotrl.envs import load
from pilotrl.envs.toy import ToyEnv
from pilotrl.judge.rule import RuleJudge
from pilotrl.module import PilotModule
from pilotrl.policy import Policy
from pilotrl.rollout import Player, Ticket, play
from pilotrl.types import Task


def options(algorithm: str) -> dict[str, Any]:
    """What `conf/` gives an algorithm."""
    return dict(OmegaConf.load(CONF / "algorithm" / f"{algorithm}.yaml"))  # type: ignore[arg-type]


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Small tensors are slower on many."""
    torch.set_num_threads(1)


def build(folder: Path, width: int) -> Path:
    """A random Llama of two layers and a tokenizer learned from ToyEnv."""
    words = [text.format(next=i, plan="", step="") for text in prompts.load("short").values() for i in range(1, 5)]
    corpus = [*scratch.texts(load("toy", split="train"), 60), *words]
    sizes = {"vocabulary": 360, "width": width, "inner": 2 * width, "layers": 2, "heads": 4, "kv_heads": 2}
    scratch.build(folder, corpus, **sizes, positions=512, seed=0)
    return folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of thirty thousand random weights."""
    return build(tmp_path_factory.mktemp("models") / "tiny", width=32)


@pytest.fixture(scope="session")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a hundred thousand weights which saw demonstrations until they solved a quarter of ToyEnv."""
    folders = tmp_path_factory.mktemp("models")
    start = build(folders / "cold", width=64)
    run = Training(start, "sft", steps=80, tasks=32, group_size=1, micro_tokens=4096, lr=3e-3, player={"expert": True})
    run.source.over = lambda: int(run.module.version) > 20 and run.success() > 0.2
    run.fit()
    policy.save(run.policy.model, run.source.players[0].chat.tokenizer, folders / "warm")
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


def adaplan(chat: Chat) -> Player:
    """Plans and acts by itself; `dataclasses.replace` makes others of it."""
    return Player(
        chat=chat,
        prompts=prompts.load("short"),
        plans="always",
        thinks=False,
        context="append",
        window=None,
        teacher=False,
        expert=False,
        slips=0.0,
        max_length=512,
        max_tokens={"planner": 48, "executor": 24},
        temperature=1.0,
        top_p=1.0,
        version=0,
    )


@pytest.fixture(scope="session")
def player(chat: Chat) -> Player:
    return adaplan(chat)


@pytest.fixture
def toy() -> ToyEnv:
    env = load("toy", split="train")
    assert isinstance(env, ToyEnv)
    return env


def scoring(**changes: Any) -> Scoring:
    values: dict[str, Any] = {
        "judge": RuleJudge(resolve=None),
        "terms": ["format", "adherence", "outcome"],
        "weights": {"format": 1.0, "adherence": 1.0, "outcome": 1.0},
        "overlong_buffer": 40,
        "overlong_limit": 120,
        "overlong_penalty": 0.5,
        "trains": ["executor"],
    }
    return Scoring(**values | changes)


class Training:
    """A small run: `fit` trains `module` on `source`. Random players get their rewards from how long they talk."""

    def __init__(self, folder: Path, algorithm: str = "grpo", *, player: dict[str, Any] | None = None, **changes: Any) -> None:
        """`player` changes the player; other changes go to the module or the source."""
        chat = Chat(policy.load_tokenizer(str(folder)))
        chosen = algorithms.load(**options(algorithm))
        self.policy = Policy(policy.load_model(str(folder), "float32"), chosen.critic)
        trains = ["executor"]
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
        }
        source = {"tasks": 4, "group_size": 3, "shuffle_rewards": False, "rank": 0, "ranks": 1}
        settings |= {key: value for key, value in changes.items() if key in settings}
        source |= {key: value for key, value in changes.items() if key in source}
        self.module = PilotModule(self.policy, chosen, **settings)  # type: ignore[arg-type]
        self.source = Rollouts(
            env="toy",
            split="train",
            make_env=lambda: load("toy", split="train"),
            engine=LocalEngine(self.policy.model, chat.end, 16),
            players=[replace(adaplan(chat), teacher=True, temperature=settings["temperature"], **player or {})],
            scoring=scoring(trains=trains),
            trains=trains,
            steps=settings["steps"],  # type: ignore[arg-type]
            seed=settings["seed"],  # type: ignore[arg-type]
            version=lambda: int(self.module.version),
            on_episode=lambda step, done, total: None,
            **source,  # type: ignore[arg-type]
        )

    def fit(self, source: Any = None, **changes: Any) -> Training:
        """Changes are Lightning's; `source` stands in for the loader of batches."""
        settings = {"accelerator": "cpu", "devices": 1, "max_epochs": 1, "logger": False} | changes
        quiet = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
        self.trainer = Trainer(**settings, **quiet)  # type: ignore[arg-type]
        self.source.rank, self.source.ranks = self.trainer.global_rank, self.trainer.world_size
        self.trainer.fit(self.module, DataLoader(self.source, batch_size=None) if source is None else source)
        return self

    def success(self) -> float:
        """Share of some tasks that the policy solves with the teacher's plans, sampled at temperature 1."""
        player, names = replace(self.source.players[0], expert=False), self.source.names[:48]
        tickets = [Ticket(Task("toy", name, "train", 0), i, 0, player) for i, name in enumerate(names)]
        episodes = play(tickets, self.source.make_env, self.source.engine, ("success", int(self.module.version)))
        return fmean(episode.outcome == "solved" for episode in episodes)

    def weights(self) -> torch.Tensor:
        return torch.cat([parameter.detach().flatten() for parameter in self.policy.parameters()])


@pytest.fixture
def training(tiny: Path) -> Callable[..., Training]:
    return lambda *given, **changes: Training(tiny, *given, **changes)
