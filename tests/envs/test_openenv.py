"""Servers of OpenEnv as environments: the echo that its own `openenv init` writes and one of ours, each in a process of its own
with the Python that has OpenEnv; and one that says nonsense, which needs `websockets` only."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http import HTTPStatus
from importlib.util import find_spec
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest

from pilotrl.engine.scripted import ScriptedPolicy
from pilotrl.envs import load
from pilotrl.envs.openenv import OpenEnv
from pilotrl.rollout.agent import AgentSpec, EpisodeSpec
from pilotrl.rollout.scheduler import ATTEMPTS, run_episodes
from pilotrl.types import Task, UserError, WorldError
from tests.envs.servers import free_port, serving
from tests.envs.steps import trained
from tests.envs.test_contract import ODD

PYTHON = os.environ.get("PILOTRL_OPENENV_PYTHON") or (sys.executable if find_spec("openenv") else "")
"""That has OpenEnv, which does not go into one environment with the versions of constraints.txt."""
WHY = "NOT TESTED: OpenEnv is not installed, and PILOTRL_OPENENV_PYTHON names no Python that has it (docs/openenv.md)"
pytestmark = pytest.mark.skipif(not find_spec("websockets"), reason="NOT TESTED: websockets is not installed")
real = [pytest.mark.openenv, pytest.mark.skipif(not PYTHON, reason=WHY)]
HERE = Path(__file__).parent
HIDDEN = "abcdefgh"
"""The letter of task n is the n-th of these, over and over."""
SESSIONS = 6


@contextmanager
def letters(sessions: int = SESSIONS) -> Iterator[str]:
    port = free_port()
    command = [PYTHON, str(HERE / "openenv_server.py"), str(port), str(sessions)]
    with serving(command, port, 600, stdout=subprocess.DEVNULL) as url:
        yield url


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with letters() as found:
        yield found


@pytest.fixture
def make() -> Iterator[Callable[..., OpenEnv]]:
    """Builds environments that are closed in the end; what is shown is what ours says."""
    built = list[OpenEnv]()

    def made(url: str, **changes: Any) -> OpenEnv:
        env = load("openenv", **{"url": url, "observation": ["said"]} | changes)
        assert isinstance(env, OpenEnv)
        built.append(env)
        return env

    yield made
    for env in built:
        env.close()


# The contract, with a real server


class TestReal:
    """With a real server."""

    pytestmark = real

    def test_an_episode(self, url: str, make: Any) -> None:
        env = make(url)
        text, info = env.reset(options={"task": "3"})
        assert text == "Which letter is it?"
        assert info == {"score": 0.0, "solved": False, "valid": True, "par": None}
        assert env.step("f")[:4] == ("Earlier.", 0.0, False, False)
        text, reward, terminated, truncated, info = env.step("d")
        assert (text, reward, terminated, truncated) == ("Yes. <|end|>", 1.0, True, False)
        assert info == {"score": 1.0, "solved": True, "valid": True}
        with pytest.raises(RuntimeError):
            env.step("d")
        with pytest.raises(KeyError):
            env.reset(options={"task": "1000"})
        env = make(url, split="dev", max_turns=2)
        assert env.tasks == [str(seed) for seed in range(1000, 1100)]
        env.reset()
        env.step("x")
        assert env.step("x")[1:] == (0.0, False, True, {"score": 0.0, "solved": False, "valid": True})

    def test_what_the_server_finds_invalid_costs_a_turn(self, url: str, make: Any) -> None:
        env = make(url, max_turns=len(ODD) + 1)
        env.reset()
        for action in [*ODD, "x" * 41]:
            text, reward, _, truncated, info = env.step(action)
            assert text
            assert (reward, info["score"], info["valid"]) == (0.0, 0.0, len(action) <= 40)
        assert text == "Nothing happens: letter: String should have at most 40 characters"
        assert truncated

    def test_actions_in_json_and_fields_that_stay(self, url: str, make: Any) -> None:
        env = make(url, action_fields={"letter": "b"}, observation=[], reset_with={"hint": "Look."})
        assert json.loads(env.reset(options={"task": "1"})[0]) == {"said": "Which letter is it? Look.", "left": 8}
        for action, says in {
            "b": "a call is no JSON",
            "[]": "is a JSON object",
            '{"times": "x"}': "times: Input should be a valid integer",
            '{"many": 1}': "many: Extra inputs are not permitted",
        }.items():
            text, _, _, _, info = env.step(action)
            assert text.startswith("Nothing happens: ")
            assert says in text
            assert not info["valid"]
        text, _, terminated, _, info = env.step('{"times": 2, "letter": "z"}')
        assert (json.loads(text)["said"], terminated, info["solved"]) == ("Yes. <|end|>", True, True)

    def test_two_at_once_are_two_alone_and_one_goes_on_after_pickling(self, url: str, make: Any) -> None:
        def told(env: OpenEnv, letter: str) -> Iterator[str]:
            env.reset(options={"task": "7"})
            yield from (env.step(action)[0] for action in (letter, "said"))

        together = [*zip_longest(told(make(url), "x"), told(make(url), "y"))]
        assert together == [("Earlier.", "Earlier."), ("x said", "y said")]
        env = make(url)
        env.reset(options={"task": "7"})
        env.step("c")
        other = pickle.loads(pickle.dumps(env))
        assert env.step("said") == other.step("said")
        other.close()

    def test_sessions_end_with_the_episode_s_instance_however_it_ends(self, make: Any) -> None:
        with letters() as url:
            env, other = make(url), make(url)

            def live(most: int) -> None:
                """A session that is over ends when the server has seen it."""
                end = time.monotonic() + 60
                while int(env.step("live")[0]) > most:
                    assert time.monotonic() < end
                    time.sleep(0.05)

            env.max_turns = 10**6
            env.reset()
            other.reset()
            assert env.step("live")[0] == "2"
            with pytest.raises(WorldError, match="EXECUTION_ERROR: division by zero"):
                other.step("fail")
            with pytest.raises(RuntimeError):
                other.step("x")
            live(1)
            other.timeout = 1.0
            other.reset()
            with pytest.raises(WorldError, match="gave no answer in time"):
                other.step("wait")
            gone = make(url)
            gone.reset()
            gone.close()
            live(2)  # its own, and the one that waits

    def test_errors_of_the_server(self, make: Any) -> None:
        with letters(sessions=1) as url:
            env = make(url)
            for action, says in {"much": "1009|too big", "nan": "its episode ended without any reward"}.items():
                env.reset()
                with pytest.raises(WorldError, match=says) as failed:
                    env.step(action)
                assert "\n" not in str(failed.value)
            env.close()

    def test_the_rollout_retries_a_server_that_dies_and_counts(
        self, url: str, make: Any, agent_spec: AgentSpec
    ) -> None:
        """The first try ends with the server, those after it find none; the rest of the episodes are played elsewhere."""
        alone = replace(agent_spec, plans="never", max_length=2000, max_tokens={"planner": 200, "executor": 200})
        specs = [EpisodeSpec(Task("openenv", str(i), "train", 0), i, 0, alone) for i in range(4)]
        with letters() as dying:
            places = iter([dying] * ATTEMPTS)
            actions = iter(["die"])
            policy = ScriptedPolicy(agent_spec.chat, lambda prompt: f"Action: {next(actions, 'b')}", slots=1)
            build = lambda: make(next(places, url), max_turns=1)  # noqa: E731
            episodes = run_episodes(specs, build, policy, ("openenv",))
        outcomes = [episode.outcome for episode in episodes]
        assert outcomes == ["broken", "solved", "truncated", "truncated"]

    def test_two_steps_of_training(self, url: str, tmp_path: Path) -> None:
        """With the shipped model."""
        words = [f"env.url={url}", "env.observation=[said]", "env.max_turns=2", f"engine.slots={SESSIONS - 2}"]
        steps = trained(tmp_path / "run", "env=openenv", *words)
        assert [line["step"] for line in steps] == [1, 2]
        assert [line["train/broken"] for line in steps] == [0, 0]

    def test_the_environment_that_openenv_itself_writes(self, make: Any, tmp_path: Path) -> None:
        """`openenv init`, and as its page says to start it; it takes one session at a time."""
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        begin = "from openenv.cli.__main__ import main; main()"
        words = [PYTHON, "-c", begin, "init", "echo_world"]
        subprocess.run(words, cwd=tmp_path, check=True, env=os.environ | {"PATH": ""}, **quiet)
        port = free_port()
        words = ["-m", "uvicorn", "server.app:app", "--port", str(port)]
        with serving([PYTHON, *words], port, 600, stdout=subprocess.DEVNULL, cwd=tmp_path / "echo_world") as url:
            env = make(url, observation=["echoed_message"], max_turns=3)
            env.probe()
            assert env.reset()[0] == "Echo World environment ready!"
            other = make(url, observation=[])
            with pytest.raises(
                WorldError, match=r"CAPACITY_REACHED: .*; it takes 1 sessions at once: .*engine.slots=1"
            ):
                other.reset()
            assert env.step("Hello") == ("Hello", 0.5, False, False, {"score": 0.5, "solved": False, "valid": True})
            assert env.step("Hello")[4]["score"] == 1.0
            assert env.step("")[3]
            env.close()
            words = [f"env.url={url}", "env.observation=[echoed_message]", "env.max_turns=2", "engine.slots=1"]
            steps = trained(tmp_path / "run", "env=openenv", *words)
        assert [line["train/broken"] for line in steps] == [0, 0]

    def test_what_the_server_s_action_is_not(self, url: str, make: Any) -> None:
        for changes, says in (
            ({"action": "times"}, "action=times: is no field for a text; its action has letter, times"),
            ({"action": "guess"}, "action=guess: is no field"),
            ({"action_fields": {"size": 1}}, "action_fields.size=1: is no field; its action has letter, times"),
            ({"observation": ["text"]}, r"observation=\[text\]: is no field; its observation has said, left"),
        ):
            with pytest.raises(UserError, match=f"^{says}"):
                make(url, **changes).probe()
            with pytest.raises(UserError, match=f"^env.{says}"):
                make(url, **changes).reset()


# A server that says nonsense

SCHEMA = {"action": {"properties": {"letter": {"type": "string"}}, "required": ["letter"]}, "observation": {}}


@contextmanager
def raw(*answers: Any, schema: Any = SCHEMA, status: int = 200, moved: str = "", farewell: Any = None) -> Iterator[str]:
    """Answers messages with these, one after the other, and the last for ever; text as it stands. None ends the session."""
    from websockets.datastructures import Headers
    from websockets.http11 import Response
    from websockets.sync.server import ServerConnection, serve

    left = [*answers]

    def answer(session: ServerConnection) -> None:
        if farewell:
            session.send(json.dumps(farewell))
            return
        for _ in session:
            held = left.pop(0) if len(left) > 1 else left[0]
            if held is None:
                return
            session.send(held if isinstance(held, str | bytes) else json.dumps(held))

    def about(session: ServerConnection, request: Any) -> Response | None:
        if request.path == "/ws" and moved:
            return Response(307, "moved", Headers({"Location": moved, "Content-Length": "0"}), b"")
        if request.path != "/schema":
            return None
        body = (schema if isinstance(schema, str) else json.dumps(schema)).encode()
        return Response(status, HTTPStatus(status).phrase, Headers({"Content-Length": str(len(body))}), body)

    with serve(answer, "127.0.0.1", 0, process_request=about) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.socket.getsockname()[1]}"
        finally:
            server.shutdown()
            thread.join()


def seen(reward: Any = 0.0, done: Any = False, **observation: Any) -> dict[str, Any]:
    return {
        "type": "observation",
        "data": {"observation": {"said": "Go.", **observation}, "reward": reward, "done": done},
    }


NONSENSE: list[tuple[Any, str]] = [
    ("{", "Expecting property name"),
    ("[" * 100_000, "recursion"),
    (b"x", "this is no answer: None"),
    ([], "this is no answer"),
    ({"type": "observation"}, "this is no answer"),
    ({"type": "observation", "data": {}}, "this is no observation"),
    ({"type": "observation", "data": {"observation": {"said": "x"}}}, "this is no observation"),
    (seen(done=1), "this is no observation"),
    (seen(reward="1"), "this is no reward: 1"),
    ('{"type": "observation", "data": {"observation": {"said": ""}, "reward": NaN, "done": false}}', "no reward: nan"),
    (seen(done=True, reward=None), "ended without any reward"),
    ({"type": "state", "data": {}}, "this is no answer"),
    ({"type": "error", "data": {"code": "EXECUTION_ERROR", "message": "no\npaper"}}, "EXECUTION_ERROR: no paper"),
    ({"type": "error", "data": {"code": "VALIDATION_ERROR"}}, ""),
    (None, "received 1000"),
    (seen(x="y" * 2**20), "1009"),
]


def test_nonsense_is_an_error_of_the_server_and_ends_the_session(make: Any) -> None:
    for answer, says in NONSENSE:
        with raw(seen(), answer) as url:
            env = make(url)
            env.reset()
            if not says:
                assert env.step("x")[4]["valid"] is False
                continue
            with pytest.raises(WorldError) as failed:
                env.step("x")
            assert says in str(failed.value), answer
            assert str(failed.value).isprintable()
            assert len(str(failed.value)) < 300
            assert env._socket is None
    with raw(seen(done=True, reward=1.0)) as url, pytest.raises(WorldError, match="is over at its reset"):
        make(url).reset()


def test_what_a_server_says_before_it_ends_a_session_is_told(make: Any) -> None:
    full = {"type": "error", "data": {"code": "CAPACITY_REACHED", "message": "full", "max_sessions": 2}}
    with (
        raw(farewell=full) as url,
        pytest.raises(WorldError, match=r"CAPACITY_REACHED: full; it takes 2 .*engine.slots=2"),
    ):
        make(url).reset()


def test_texts_of_the_server_stay_text(make: Any) -> None:
    with raw(seen(said="<|end|>\ud800 \n")) as url:
        assert make(url).reset()[0] == "<|end|>? \n"
    with raw(seen(said="")) as url:
        assert make(url).reset()[0] == "(nothing)"
    with raw(seen(said={"a": [1]}, x=2)) as url:
        assert make(url, observation=["x", "said"]).reset()[0] == '2\n{"a": [1]}'


def test_a_server_that_begins_differently_with_one_seed_is_refused(make: Any) -> None:
    with (
        raw(seen(said="a"), seen(said="b")) as url,
        pytest.raises(UserError, match="with one seed it begins as a and as b"),
    ):
        make(url).probe()


def test_the_score_is_the_sum_of_rewards_or_the_last(make: Any) -> None:
    answers = (seen(), seen(0.5), seen(None), seen(0.4, done=True))
    for score, solved_at, end in (("sum", 0.9, 0.9), ("last", 0.5, 0.4)):
        with raw(*answers) as url:
            env = make(url, score=score, solved_at=solved_at)
            env.reset()
            env.step("x")
            assert env.step("x")[1] == 0.0
            info = env.step("x")[4]
            assert (info["score"], info["solved"]) == (pytest.approx(end), end >= solved_at)


def test_redirects_are_not_followed_and_what_has_no_schema_is_refused(make: Any) -> None:
    for changes, says in (
        ({"schema": "{}"}, "/schema: 'action'"),
        ({"schema": "[]"}, "/schema: "),
        ({"schema": "x", "status": 404}, "/schema: answers with status 404"),
    ):
        with raw(seen(), **changes) as url, pytest.raises(UserError, match=f"^url={url}{says}"):
            make(url).probe()
    with (
        raw(seen()) as there,
        raw(seen(), moved=there.replace("http", "ws")) as url,
        pytest.raises(WorldError, match="cannot follow redirect"),
    ):
        make(url).reset()


def test_an_action_that_a_text_cannot_fill_is_one_in_json(make: Any) -> None:
    fields = {"properties": {"letter": {"type": "string"}, "n": {}}, "required": ["letter", "n"]}
    with raw(seen(), schema={"action": fields, "observation": {}}) as url:
        with pytest.raises(UserError, match=r"^action=letter: it needs n too; set env.action_fields"):
            make(url, action="letter").probe()
        env = make(url)
        env.reset()
        assert [env.step(action)[4]["valid"] for action in ("x", '{"letter": "x", "n": 1}')] == [False, True]
        env = make(url, action="letter", action_fields={"n": 1})
        env.reset()
        assert env.step("x")[4]["valid"]


# What a user got wrong

HERE_URL = "http://127.0.0.1:9"
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"url": ""}, "env.url=: must be the address of a server"),
    ({"url": "ws://127.0.0.1"}, "env.url=ws://127.0.0.1: must be the address"),
    ({"url": "http://me:key@127.0.0.1"}, "env.url: holds a user or a password"),
    ({"split": "tset"}, "env.split=tset: must be one of train, dev, test"),
    ({"seeds": {"train": 1}}, "env.seeds={'train': 1}: must give train, dev and test each"),
    ({"seeds": {"train": 1, "dev": 0, "test": 1}}, "env.seeds="),
    ({"reset_with": 3}, "env.reset_with=3: must be a mapping"),
    ({"action_fields": ["a"]}, "env.action_fields=.*: must be a mapping"),
    ({"observation": "said"}, "env.observation=said: must be a list of fields"),
    ({"score": "mean"}, "env.score=mean: must be one of sum, last"),
    ({"solved_at": 0.0}, "env.solved_at=0.0: must be above 0, at most 1"),
    ({"timeout": 0}, "env.timeout=0: must be above 0"),
    ({"max_turns": 0}, "env.max_turns=0: must be above 0"),
]


def test_what_a_user_got_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    for given, said in WRONG:
        with pytest.raises(UserError, match=said) as wrong:
            load("openenv", **{"url": HERE_URL} | given)
        assert "\n" not in str(wrong.value)
    with pytest.raises(UserError, match=r"^url=http://127.0.0.1:9/schema: .*; start the server, or give its address"):
        load("openenv", url=HERE_URL).probe()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "websockets.sync", None)
    with pytest.raises(
        UserError, match=r"^env=openenv: its package cannot be imported .*; pip install 'pilotrl\[openenv\]'"
    ):
        load("openenv", url=HERE_URL)
