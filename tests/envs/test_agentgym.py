"""The client of AgentGym against a server that speaks each of its six dialects, errors included, about ToyEnv's tasks."""

from __future__ import annotations

import json
import re
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count, zip_longest
from random import Random
from typing import Any

import pytest

from pilotrl.engine.scripted import ScriptedPolicy
from pilotrl.envs import load
from pilotrl.envs.agentgym import DIALECTS, AgentGym
from pilotrl.envs.toy import ToyEnv
from pilotrl.rollout.agent import AgentSpec, EpisodeSpec
from pilotrl.rollout.scheduler import ATTEMPTS, run_episodes
from pilotrl.types import Task, UserError, WorldError


class Worlds(ThreadingHTTPServer):
    """Six of AgentGym's servers in one, each under its name; button by button one colour sequence a task."""

    daemon_threads = True
    request_queue_size = 128  # of connections that wait to be accepted: five, its default, are lost among 64 at once

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Dialects)
        self.worlds: dict[int, ToyEnv] = {}
        self.ids = count()
        self.broken = 0
        """Requests from now on that get an answer that is none."""
        self.over = threading.Event()
        """Requests that hang end."""
        self.life = 0
        """Requests until a sick one restarts."""
        self.known: set[int] = set()
        """Instances whose id has reached a client. A machine may be too busy for that."""

    def handle_error(self, *_: object) -> None:
        """A client that no longer waits is no error."""

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{name}"


class Dialects(BaseHTTPRequestHandler):
    """What each server answers, as it was written down from the originals."""

    server: Worlds

    def log_message(self, *_: object) -> None:
        """Nothing."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        _, name, *_, path = self.path.split("/")
        if self.server.broken > 0:
            self.server.broken -= 1
            self.answer("<html>busy</html>", 502)
        else:
            say = {"create": self.create, "reset": self.reset, "step": self.step, "close": self.close}[path]
            said, status = say(name, body)
            self.answer(json.dumps(said), status)

    def answer(self, text: str, status: int) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text.encode())

    def create(self, name: str, body: dict[str, Any]) -> tuple[Any, int]:
        number = next(self.server.ids)
        self.server.worlds[number] = ToyEnv(split="train", max_turns=4, seed=0)
        if name == "textcraft":
            return {"id": number, "observation": "", "done": False, "reward": 0.0}, 200
        return (number if name == "webshop" else {"id": number}), 200

    def missing(self, name: str, body: dict[str, Any], *fields: str) -> tuple[Any, int] | None:
        """The reply if a field is missing, or the environment instance is unknown."""
        if lacking := [field for field in fields if field not in body]:
            return {"detail": [{"type": "missing", "loc": ["body", field]} for field in lacking]}, 422
        if body[fields[0]] not in self.server.worlds:
            return ("Internal Server Error", 500) if name == "webshop" else ({"error": "The id is not valid."}, 200)
        return None

    def reset(self, name: str, body: dict[str, Any]) -> tuple[Any, int]:
        dialect = DIALECTS[name]
        extra = ("world_type",) if name == "alfworld" else ()
        if wrong := self.missing(name, body, dialect.id, dialect.task, *extra):
            return wrong
        text, _ = self.server.worlds[body[dialect.id]].reset(seed=body[dialect.task])
        answers: dict[str, Any] = {
            "webshop": [text, None],
            "alfworld": {"id": 0, "observation": text, "available_actions": ["press[red]"], "task_type": "press"},
            "babyai": {"observation": text, "reward": 0.0, "score": 0.0, "deleted": False, "done": False},
        }
        return answers.get(name, {"observation": text}), 200

    def step(self, name: str, body: dict[str, Any]) -> tuple[Any, int]:
        if wrong := self.missing(name, body, DIALECTS[name].id, "action"):
            return wrong
        world = self.server.worlds[body[DIALECTS[name].id]]
        if world.over and name not in ("textcraft", "webshop"):
            return {"error": "The task has finished."}, 200
        text, _, done, _, info = world.step(body["action"])
        reward = float(info["solved"])
        if name == "maze":
            text, reward = ("Success" if info["solved"] else text), reward - 1.0
        extra = {"score": reward} if name == "babyai" else {"available_actions": []} if name == "alfworld" else {}
        return {DIALECTS[name].text: text, "reward": reward, "done": done, **extra}, 200

    def close(self, name: str, body: dict[str, Any]) -> tuple[Any, int]:
        assert DIALECTS[name].closes
        if wrong := self.missing(name, body, DIALECTS[name].id):
            return wrong
        del self.server.worlds[body[DIALECTS[name].id]]
        return True, 200


@pytest.fixture
def worlds() -> Iterator[Worlds]:
    server = Worlds()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def client(worlds: Worlds, name: str, **others: Any) -> AgentGym:
    env = load("agentgym", name=name, url=worlds.url(name) + "/", **others)
    assert isinstance(env, AgentGym)
    return env


@pytest.mark.parametrize("name", DIALECTS)
def test_twenty_episodes_in_each_dialect(worlds: Worlds, name: str) -> None:
    env, same = client(worlds, name), ToyEnv(split="train", max_turns=4, seed=0)
    for task in (env.tasks * 2)[:20]:
        text, info = env.reset(options={"task": task})
        assert text == same.reset(seed=int(task))[0]
        assert (info["score"], info["solved"], info["valid"]) == (0.0, False, True)
        assert ("actions" in info) == (name == "alfworld")
        for color in same.colors:
            assert not info["solved"]
            text, reward, terminated, truncated, info = env.step(f"press[{color}]")
        assert (reward, terminated, truncated, info["solved"], info["score"]) == (1.0, True, False, True, 1.0)
        with pytest.raises(RuntimeError):
            env.step("press[red]")
    env.close()
    assert len(worlds.worlds) == (0 if DIALECTS[name].closes else 1)


@pytest.mark.parametrize("name", DIALECTS)
def test_a_wrong_button_fails_and_the_turn_limit_truncates(worlds: Worlds, name: str) -> None:
    env = client(worlds, name, max_turns=2)
    env.reset(options={"task": "0"})
    wrong = next(color for color in ("red", "green") if color != worlds.worlds[0].colors[0])
    _, reward, terminated, _, info = env.step(f"press[{wrong}]")
    assert (reward, terminated, info["solved"], info["score"]) == (0.0, True, False, 0.0)
    env.reset(options={"task": "1"})
    assert [env.step("?")[2:4] for _ in range(2)] == [(False, False), (False, True)]


@pytest.mark.parametrize("name", DIALECTS)
def test_errors_of_the_server_raise_world_error(worlds: Worlds, name: str) -> None:
    env = client(worlds, name)
    env.reset(options={"task": "0"})
    worlds.worlds.clear()  # restarted: it has forgotten
    with pytest.raises(WorldError):
        env.step("press[red]")
    with pytest.raises(WorldError):
        env.post("/step", {})
    worlds.broken = 1
    with pytest.raises(WorldError, match="502"):
        client(worlds, name).reset(options={"task": "0"})


def test_a_server_that_is_down_raises_world_error(worlds: Worlds) -> None:
    env = client(worlds, "textcraft")
    worlds.shutdown()
    worlds.server_close()
    with pytest.raises(WorldError):
        env.reset(options={"task": "0"})


def test_the_rollout_goes_on_and_counts(worlds: Worlds, agent_spec: AgentSpec) -> None:
    """One failure more than an episode tries, all of them at the first."""
    alone = replace(agent_spec, plans="never")
    specs = [EpisodeSpec(Task("agentgym", str(task), "train", 0), task, 0, alone) for task in range(4)]
    policy = ScriptedPolicy(agent_spec.chat, lambda prompt: "Action: press[red]", slots=1)
    worlds.broken = ATTEMPTS
    episodes = run_episodes(specs, lambda: client(worlds, "textcraft"), policy, ("agentgym",))
    assert [episode.outcome == "broken" for episode in episodes] == [True, False, False, False]


class Sick(Dialects):
    """Of a hundred requests three are not answered before the client gives up, three get a page of HTML with status 200, three no
    answer at all, each before or after the server has acted; after every `server.life` it restarts, and counts from 0 again."""

    draw = Random(0)
    asked = 0

    def do_POST(self) -> None:
        Sick.asked += 1
        if Sick.asked % self.server.life == 0:
            self.server.worlds.clear()
            self.server.ids = count()
            self.server.known.clear()
        self.does = self.draw.choice([*["hang", "html", "die"] * 3, *["work"] * 91])
        if self.does == "work" or (self.draw.random() < 0.5 and not self.path.endswith("/create")):
            super().do_POST()
        else:
            self.answer("", 200)

    def answer(self, text: str, status: int) -> None:
        if self.does == "hang":
            self.server.over.wait()
        if self.does != "die":
            super().answer("<html>busy</html>" if self.does == "html" else text, status)


@pytest.mark.parametrize("episodes", [60, pytest.param(1000, marks=pytest.mark.slow)])
def test_a_sick_server_loses_no_session_and_mixes_no_episodes(
    worlds: Worlds, agent_spec: AgentSpec, episodes: int, tell: Any
) -> None:
    """What an episode that is not broken was told is what the same actions are told alone."""
    worlds.RequestHandlerClass, worlds.life = Sick, 5 * episodes
    spec = replace(agent_spec, plans="never")
    tasks = client(worlds, "textcraft").tasks
    specs = [EpisodeSpec(Task("agentgym", tasks[i % len(tasks)], "train", 0), i, 0, spec) for i in range(episodes)]
    ended = Counter[int]()

    class Sloppy(ScriptedPolicy):
        def _reply(self, request: Any) -> Any:
            colors = re.findall(r"Press (.*?)\.", self.chat.decode(request.prompt))[0].split(", then ")
            done = self.chat.decode(request.prompt).count("You pressed")
            wait = Random(request.seed).random() < 0.2
            self.script = lambda prompt: "Action: wait" if wait else f"Action: press[{colors[done]}]"
            return super()._reply(request)

    def make() -> AgentGym:
        env = client(worlds, "textcraft", timeout=2.0)
        post = env.post

        def noting(path: str, body: dict[str, Any]) -> Any:
            said = post(path, body)
            worlds.known |= {said["id"]} if path == "/create" else set()
            return said

        env.post = noting  # type: ignore[method-assign]
        return env

    played = run_episodes(
        specs,
        make,
        Sloppy(agent_spec.chat, lambda prompt: "", slots=min(64, episodes // 4)),
        ("agentgym",),
        lambda episode: ended.update([episode.group]),
    )
    worlds.over.set()
    broken = [episode for episode in played if episode.outcome == "broken"]
    never = len(worlds.worlds.keys() - worlds.known)
    tell(
        f"{len(played)} episodes, {len(broken)} broken; {Sick.asked} requests; {never} instances whose id came too late"
    )
    assert ended == {spec.group: 1 for spec in specs}
    assert not worlds.known & worlds.worlds.keys()
    assert len(broken) < len(played) / 2
    alone = ToyEnv(split="train", max_turns=4, seed=0)
    for episode in played:
        if episode.outcome != "broken":
            assert episode.observation == alone.reset(seed=int(episode.task.id))[0]
            assert [turn.observation for turn in episode.turns] == [
                alone.step(turn.action)[0] for turn in episode.turns
            ]


def test_two_interleaved_episodes_equal_two_separate_ones(worlds: Worlds) -> None:
    def told(env: AgentGym, task: str) -> Iterator[str]:
        yield env.reset(options={"task": task})[0]
        for color in ("red", "wait", "blue", "gold", "teal"):
            if not env.over:
                yield env.step(f"press[{color}]")[0]

    pair = [client(worlds, "textcraft") for _ in range(2)]
    together = [*zip_longest(told(pair[0], "3"), told(pair[1], "4"))]
    apart = [*zip_longest(told(pair[0], "3"), [*told(pair[1], "4")])]
    assert together == apart


def test_no_two_episodes_share_an_instance_of_a_server_that_restarted(worlds: Worlds) -> None:
    first, second = client(worlds, "textcraft"), client(worlds, "textcraft")
    first.reset(options={"task": "0"})
    worlds.worlds.clear()
    worlds.ids = count()
    second.reset(options={"task": "1"})
    assert (first.world, second.world, [*worlds.worlds]) == (0, 1, [1]), (
        "0 may have been reached by the first one's request"
    )
    with pytest.raises(WorldError, match="the server has restarted, and 0 is no longer this episode's"):
        first.step("wait")
    first.close()
    assert second.step("wait")[0] == "Nothing happens."
    second.close()
    assert worlds.worlds == {}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"name": "chess"}, "env.name=chess: must be one of alfworld"),
        ({"url": "localhost:8000"}, "env.url=localhost:8000: must be the address"),
        ({"url": ""}, "env.url=: must be the address"),
        ({"split": "tset"}, "env.split=tset: must be one of"),
        ({"tasks": 5}, "env.tasks=5: leaves no task"),
    ],
)
def test_what_a_user_got_wrong(given: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        load("agentgym", **{"url": "http://127.0.0.1:1", "split": "test"} | given)
