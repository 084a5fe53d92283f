"""A server of AgentGym's that fails, lies or attacks: requests end in time, in one line, and episodes broken."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pilotrl.cli.preflight import prepare
from pilotrl.engine.scripted import ScriptedPolicy
from pilotrl.envs import agentgym, load
from pilotrl.envs.agentgym import AgentGym
from pilotrl.rollout.agent import AgentSpec, EpisodeSpec
from pilotrl.rollout.scheduler import ATTEMPTS, run_episodes
from pilotrl.types import Task, UserError, WorldError
from tests.hostile.raw_server import Behaviour, Connection, response, serving
from tests.hostile.test_hostile_server import BOMB, LONG, SHORT, big, drip_headers, endless, hang, in_time


def drip(at: Connection) -> None:
    at.send("HTTP/1.1 200 OK\r\nContent-Length: 10000\r\n\r\n")
    at.drip(" " * 10_000)


def says(body: Any, status: str = "200 OK", **headers: Any) -> Behaviour:
    return lambda at: at.send(response(body if isinstance(body, bytes) else json.dumps(body), status, **headers))


WAITS = {"hangs": hang, "drips headers": drip_headers, "drips a body": drip}
"""Only the timeout ends these."""
NONSENSE: dict[str, Behaviour] = {
    "closes": lambda at: None,
    "resets": Connection.reset,
    "no HTTP": lambda at: at.send("SSH-2.0-OpenSSH_9.9\r\n"),
    "HTML": says(b"<html>hello</html>"),
    "an error": says({"detail": "\x1b[2Jno"}, "500 Internal Server Error"),
    "an error that is none": says({"error": "no"}),
    "a redirect": says({}, "307 Temporary Redirect", Location="http://elsewhere.example/create"),
    "200,000 brackets": says(b"[" * 200_000),
    "50 MB": big,
    "no end": endless,
    "a bomb": says(BOMB, Content_Encoding="gzip"),
    "null": says(None),
    "a text": says("no"),
    "an empty list": says([]),
    "nothing": says(b""),
    "invalid UTF-8": says(b"\xff\xfe"),
}


@pytest.fixture(autouse=True)
def _unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AgentGym, "probed", set())


def at(url: str, **changes: Any) -> AgentGym:
    env = load("agentgym", url=url, **{"timeout": LONG} | changes)
    assert isinstance(env, AgentGym)
    return env


@pytest.mark.parametrize("name", [*NONSENSE, *WAITS])
def test_a_reset_and_a_probe_end_with_one_line(name: str) -> None:
    with serving((NONSENSE | WAITS)[name]) as server:
        env = at(server.url, timeout=SHORT if name in WAITS else LONG)
        with pytest.raises(WorldError, match=f"^{server.url}/create: ") as failed:
            in_time(lambda: env.reset(options={"task": "0"}))
        with pytest.raises(UserError, match=f"^url={server.url}/create: .*; start the server of textcraft") as refused:
            in_time(env.probe)
    assert str(failed.value).isprintable()
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 500


def plays(step: Callable[[Connection], None]) -> Behaviour:
    """A server that starts every task, and then does something else."""

    def behave(at: Connection) -> None:
        if " /v1/step " in at.head:
            step(at)
        else:
            says({"id": 0, "observation": "Begin."})(at)

    return behave


STEPS: dict[str, Behaviour] = NONSENSE | {
    "a reward that is none": says({"observation": "x", "reward": None, "done": False}),
    "a reward without end": says({"observation": "x", "reward": float("inf"), "done": False}),
    "an end that is none": says({"observation": "x", "reward": 0, "done": "no"}),
    "no observation": says({"reward": 0, "done": False}),
}


@pytest.mark.parametrize("name", STEPS)
def test_an_episode_on_such_a_server_is_broken_and_never_a_zero(name: str, agent_spec: AgentSpec) -> None:
    with serving(plays(STEPS[name])) as server:
        policy = ScriptedPolicy(agent_spec.chat, lambda prompt: "Action: go", slots=1)
        spec = EpisodeSpec(Task("agentgym", "0", "train", 0), 0, 0, agent_spec)
        (episode,) = in_time(lambda: run_episodes([spec], lambda: at(server.url), policy, ("agentgym",)))
        steps = [request for request in server.requests if " /v1/step " in request.head]
    assert (episode.outcome, episode.turns) == ("broken", [])
    assert len(steps) == ATTEMPTS, "a request that was heard is not sent again within an episode"


def test_a_half_character_is_replaced() -> None:
    with serving(plays(says({"observation": "a\ud800b", "reward": 0, "done": False}))) as server:
        env = at(server.url)
        env.reset(options={"task": "0"})
        assert env.step("look")[0] == "a?b"


def test_a_server_that_answers_is_probed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(plays(hang)) as server:
        for _ in range(3):
            at(server.url).probe()
        assert len(server.requests) == 3, "create, reset, close"


@pytest.mark.parametrize("mixed", [False, True])
def test_a_run_in_a_world_that_does_not_answer_is_refused_before_anything_is_written(
    mixed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    line = ["model=nano", "stage=planning", "env=agentgym", "env.url=http://127.0.0.1:9", "tracking=off"]
    key = "env.url"
    if mixed:
        line[2:4] = ["env=worlds", "env.trains=[maze]", "env.holds_out=[agentgym]"]
        line.append("+env.options={agentgym: {url: 'http://127.0.0.1:9'}}".lstrip("+"))
        key = "env.options.agentgym.url"
    with pytest.raises(UserError, match=f"^{key}=http://127.0.0.1:9/create: .*; start the server of textcraft"):
        prepare(line)
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"url": "http://me:secret@host"}, "^env.url: holds a user or a password"),
        ({"url": "http://me:se/cret@host"}, "^env.url: holds a user or a password"),
        ({"url": "http://host/?key=secret"}, "^env.url: holds a . or a #"),
        ({"timeout": float("nan")}, "^env.timeout=nan: must be above 0"),
        ({"timeout": float("inf")}, "^env.timeout=inf: must be above 0"),
        ({"tasks": 10**9}, "^env.tasks=1000000000: must be"),
        ({"max_turns": 0}, "^env.max_turns=0: must be"),
    ],
)
def test_settings_that_cannot_be_used(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        at(**{"url": "http://127.0.0.1:9"} | changes)
    assert "secret" not in str(caught.value)
    assert "se/cret" not in str(caught.value)


def test_a_refused_connection_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[str] = []
    monkeypatch.setattr(agentgym.http, "post", lambda *given: sent.append(given[0]) or refuse())
    with pytest.raises(WorldError, match="refused"):
        at("http://127.0.0.1:9").reset(options={"task": "0"})
    assert len(sent) == agentgym.UNSENT


def refuse() -> None:
    raise agentgym.http.NoReply("refused", sent=False)
