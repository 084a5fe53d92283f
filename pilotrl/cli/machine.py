"""What a run needs of this machine and of others: devices, the other nodes, an MLflow that was typed, room in the context.

Asked before anything is written. A job that SLURM starts runs on another machine, which is not looked at.
"""

from __future__ import annotations

import functools
import json
import os
import re
import socket
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit
from urllib.request import getproxies

from omegaconf import DictConfig, OmegaConf

from pilotrl import envs, prompts
from pilotrl.cli.validate import prompt_set
from pilotrl.config.schema import Config
from pilotrl.envs.tools import ACT, Tool, system_of, tools_of
from pilotrl.prompts.chat import Chat, Writer
from pilotrl.prompts.context import Context
from pilotrl.tracking.mlflow_client import SQLITE
from pilotrl.types import NotHere, UserError

PATIENCE = 5.0
"""Seconds that whoever listens at an address has to take a connection."""
EACH_CORE = 4
"""Threads, or processes that share the CPU, for each of its cores, at most."""
LOOKED_AT = 16
"""Tasks whose first prompt is measured."""


def check_devices(config: Config) -> None:
    """The accelerator is there and has as many devices; other nodes can be found. Loads torch."""
    trainer = config.trainer
    most = EACH_CORE * (os.cpu_count() or 1)
    if trainer.threads is not None and trainer.threads > most:
        raise UserError(
            f"trainer.threads={trainer.threads}: is more than {EACH_CORE} for each core; give at most {most}"
        )
    if trainer.num_nodes > 1 and not {"SLURM_JOB_ID", "MASTER_ADDR"} & os.environ.keys():
        how = "start it in SLURM (hydra/launcher=slurm), or with MASTER_ADDR set on each node"
        raise NotHere(f"trainer.num_nodes={trainer.num_nodes}: nothing says where the other nodes are; {how}")
    kind = trainer.accelerator
    there = found(kind)
    if there == 0:
        raise NotHere(f"trainer.accelerator={kind}: there is none on this machine; use cpu, or auto for what there is")
    if trainer.devices > (there or most):
        has = f"there {'is' if there == 1 else 'are'} {there}" if there else f"is more than {EACH_CORE} for each core"
        raise NotHere(f"trainer.devices={trainer.devices}: {has}; give at most {there or most}")


def found(kind: str) -> int | None:
    """How many devices of a kind there are; None where ranks share the CPU."""
    import torch

    cuda, apple = torch.cuda.device_count() if torch.cuda.is_available() else 0, int(torch.backends.mps.is_available())
    if kind == "auto":
        return cuda or apple or None
    return {
        "cpu": None,
        "cuda": cuda,
        "gpu": cuda or apple,
        "mps": apple,
        "tpu": int(find_spec("torch_xla") is not None),
    }[kind]


def check_tracking(uri: str | None, root: str) -> None:
    """An MLflow that somebody typed is there: a server answers, a file is a database or can be one.

    One that nobody typed is not asked: a run goes on without it, and says how to send it what it missed.
    """
    if uri is None or uri == "off":
        return
    if uri.startswith(SQLITE):
        check_database(uri, Path(root))
    elif uri.startswith(("http://", "https://")) and not getproxies():
        parts = urlsplit(uri)
        try:
            with socket.create_connection(
                (parts.hostname, parts.port or {"http": 80, "https": 443}[parts.scheme]), PATIENCE
            ):
                pass
        except OSError as error:
            reason = f"nobody answers there ({error.strerror or error})"
            raise UserError(
                f"tracking.uri={uri}: {reason}; start MLflow, or give tracking=off and sync later"
            ) from error


def check_database(uri: str, root: Path) -> None:
    path = Path(uri.removeprefix(SQLITE))
    if path.is_file():
        head = b""
        with suppress(OSError), path.open("rb") as file:
            head = file.read(16)
        if head not in (b"", b"SQLite format 3\0"):
            raise UserError(
                f"tracking.uri={uri}: {path} is no database; give another file, or one that does not exist yet"
            )
    elif path.exists():
        raise UserError(
            f"tracking.uri={uri}: {path} is no file; give the path of one, as in {uri.rstrip('/')}/mlflow.db"
        )
    elif not path.parent.is_dir() and path.parent.absolute() != root.absolute():
        raise UserError(f"tracking.uri={uri}: the folder {path.parent} does not exist; make it, or give another")


class _Words:
    """Stands for a tokenizer that is not learned yet: a word or a sign is at least one token."""

    end, shows_tools, has_tool_role = 0, False, False

    def uncontrolled(self, tools: str) -> str:
        return tools

    def render(self, messages: Sequence[tuple[Any, Any]], tools: str = "") -> list[int]:
        return [0 for _, content in messages for _ in re.findall(r"\w+|[^\w\s]", str(content))]

    def reply(self, *pieces: str) -> list[int]:
        return self.render([("assistant", "".join(pieces))])


def check_context(config: Config) -> None:
    """Some first prompt of the environment leaves room for a reply of whom the evaluation asks first: else every episode of it
    would end before its first turn."""
    model, plain = config.model, OmegaConf.to_container
    if model.endpoint is not None:
        return
    settings = cast(dict[str, Any], plain(cast(DictConfig, config.env), resolve=True))
    try:
        starts = first_observations(json.dumps(settings, sort_keys=True))
    except UserError:
        raise
    except Exception:  # of any kind: whatever an environment of somebody's does wrong is said when it is played
        return
    agent = config.agent
    texts = prompts.load(prompt_set(model.prompts), agent.plans, replies=agent.replies, steps=agent.steps)
    texts = prompts.worded(texts, agent.plans, agent.thinks, agent.replies)
    role = "executor" if agent.plans == "never" else "planner"
    ask = texts["plan" if role == "planner" else "think" if agent.thinks else "act_free"].format(next=1)
    reply = {"planner": model.max_plan_tokens, "executor": model.max_action_tokens}[role]
    chat, sizes = chat_of(config), []
    for text, system, tools in starts:
        context = Context(chat, texts, agent.context, agent.window)
        if agent.replies == "tool_call" or system:
            context.introduce(system, (tools or [ACT]) if agent.replies == "tool_call" else [])
        context.observe(text)
        sizes.append(len(context.prompt(ask, ())))
    room = model.max_length - reply
    if sizes and min(sizes) > room:
        need = min(sizes) + reply
        raise UserError(
            f"model.max_length={model.max_length}: the shortest first prompt has {min(sizes)} tokens or more, and a reply of"
            f" the {role} up to {reply}; give at least {need}, and room for further turns"
        )


def chat_of(config: Config) -> Writer:
    """The chat format of the weights that a run starts from; of those that do not exist yet, one that counts words."""
    if config.parent is None and config.model.scratch is not None:
        return _Words()
    template = OmegaConf.to_container(cast(DictConfig, config.model.template), resolve=True)
    path = str(Path(config.parent) / "policy") if config.parent else config.model.path
    return _loaded(path, json.dumps(template, sort_keys=True))


@functools.cache
def _loaded(path: str, template: str) -> Writer:
    from pilotrl.models import policy

    try:
        return Chat(policy.load_tokenizer(path), **json.loads(template))
    except (OSError, ValueError, ImportError):  # said where the model is looked at
        return _Words()


@functools.cache
def first_observations(settings: str) -> list[tuple[str, str, list[Tool]]]:
    """What the first few tasks of an environment begin with: observation, its part of the system prompt, and its tools."""
    found = []
    with envs.opened(json.loads(settings)) as env:
        for task in env.tasks[:LOOKED_AT]:
            text = env.reset(options={"task": task})[0]
            found.append((text, system_of(env, task), tools_of(env, task)))
    return found
