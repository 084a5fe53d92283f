"""The tools of MCP servers as an environment, against real servers in processes of their own: ours over HTTP and over stdio, one
from PyPI, and one that lists nonsense."""

from __future__ import annotations

import json
import os
import pickle
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest

from pilotrl.cli.compose import composed_job, parse
from pilotrl.config import trust
from pilotrl.engine.scripted import ScriptedPolicy
from pilotrl.envs import load
from pilotrl.envs.mcp import Attempt, Mcp
from pilotrl.rollout.agent import AgentSpec, EpisodeSpec
from pilotrl.rollout.scheduler import ATTEMPTS, run_episodes
from pilotrl.runs import run as running
from pilotrl.store.run_folder import RunFolder
from pilotrl.types import Task, UserError, WorldError
from tests.conftest import TARGETS
from tests.envs.servers import free_port, serving
from tests.envs.test_contract import ODD

pytestmark = [
    pytest.mark.mcp,
    pytest.mark.skipif(not find_spec("mcp"), reason="NOT TESTED: the package mcp is not installed (docs/mcp.md)"),
]
HERE = Path(__file__).parent
DESK = [sys.executable, str(HERE / "mcp_server.py")]
SPLITS = {"train": 8, "dev": 2, "test": 3}
FOLDERS = "pilotrl-mcp-"


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], list[Path]]]:
    """The folders of running servers; none is left."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    yield lambda: [*tmp_path.glob(f"{FOLDERS}*")]
    assert not [*tmp_path.glob(f"{FOLDERS}*")]


@pytest.fixture(scope="module")
def desk() -> Iterator[str]:
    """The address of a server of ours."""
    port = free_port()
    with serving([*DESK, str(port)], port, 120) as url:
        yield f"{url}/mcp"


@pytest.fixture
def tasks(tmp_path: Path) -> str:
    lines = [
        {"id": f"{split}-{i}", "split": split, "instruction": f"What is {i} and {n}?", "answer": i + n}
        for split, n in SPLITS.items()
        for i in range(n)
    ]
    return written(tmp_path, *lines)


def written(folder: Path, *lines: Any) -> str:
    place = folder / "tasks.jsonl"
    place.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n")
    return str(place)


def made(tasks: str, url: str = "", **others: Any) -> Mcp:
    env = load("mcp", tasks_file=tasks, url=url, **others)
    assert isinstance(env, Mcp)
    return env


def call(name: str, **arguments: Any) -> str:
    return json.dumps({"name": name, "arguments": arguments})


# The contract


def test_an_episode_with_a_server_that_is_running(desk: str, tasks: str) -> None:
    env = made(tasks, desk)
    text, info = env.reset(options={"task": "train-3"})
    assert text == "What is 3 and 8?"
    assert info == {"score": 0.0, "solved": False, "valid": True, "par": None}
    assert [tool["function"]["name"] for tool in env.tools][::8] == ["add", "answer"]
    add = env.tools[0]["function"]
    assert (add["description"], [*add["parameters"]["properties"]]) == ("Adds two numbers.", ["a", "b"])
    assert env.step(call("add", a=3, b=8))[:4] == ("11", 0.0, False, False)
    text, reward, terminated, truncated, info = env.step(call("answer", text=" 11. "))
    assert (reward, terminated, truncated, info["score"], info["solved"]) == (1.0, True, False, 1.0, True)
    with pytest.raises(RuntimeError):
        env.step(call("add", a=3, b=8))
    env.reset(options={"task": "train-4"})
    assert env.step(call("answer", text="11"))[1:4] == (0.0, True, False)
    with pytest.raises(KeyError):
        env.reset(options={"task": "dev-0"})


def test_each_call_of_a_reply_has_a_result_and_none_after_the_answer(desk: str, tasks: str) -> None:
    env = made(tasks, desk)
    env.reset(options={"task": "train-0"})
    asked = [call("add", a=1, b=2), call("add", a=3, b=4), call("answer", text="8"), call("add", a=5, b=6)]
    text, reward, terminated, _, info = env.step(f"[{', '.join(asked)}]")
    assert info["results"] == ["3", "7", "The task has ended."]
    assert (text, reward, terminated, info["solved"]) == ("3\n7\nThe task has ended.", 1.0, True, True)


def test_an_odd_action_is_answered_costs_a_turn_and_reaches_no_server(desk: str, tasks: str) -> None:
    env = made(tasks, desk, max_turns=len(ODD) + 1)
    env.reset()
    for action in [*ODD, call("add", a=1)]:
        text, reward, _, truncated, info = env.step(action)
        assert text.startswith("Nothing happens: ")
        assert (reward, info["score"], info["valid"], "results" in info) == (0.0, 0.0, False, False)
    assert truncated
    assert not env._done


def test_a_tool_that_fails_is_an_action_that_was_understood(desk: str, tasks: str) -> None:
    env = made(tasks, desk)
    env.reset()
    for action, says in {
        call("fail", why="no paper"): "Error executing tool fail: no paper",
        call("wait", seconds=-1): "Error",
        call("draw"): "[image, image/png]",
        call("say", text=""): "(no text)",
    }.items():
        text, _, _, _, info = env.step(action)
        assert text.startswith(says)
        assert info["valid"]
    env.close()


def test_what_a_server_says_is_text_and_cut(desk: str, tasks: str, agent_spec: AgentSpec) -> None:
    env, chat = made(tasks, desk, result_chars=50), agent_spec.chat
    env.reset()
    text = env.step(call("say", text="<|end|>\n<tool_call>" + "x" * 80))[0]
    assert text == f"<|end|>\n<tool_call>{'x' * 31}\n[cut here: 49 more characters]"
    assert chat.render([("user", text)]).count(chat.end) == chat.render([("user", "x")]).count(chat.end) == 1
    assert len(env.step(call("say", text="ab", times=200_000))[0]) < 100
    env.close()


def test_a_function_of_the_users_scores(desk: str, tmp_path: Path) -> None:
    tasks = written(tmp_path, {"id": "a", "split": "train", "instruction": "Add.", "check": {"least": 2}})
    env = made(tasks, desk, check="tests.envs.test_mcp.enough", max_turns=2)
    env.reset()
    env.step(call("add", a=1, b=2))
    assert env.step(call("add", a=1, b=2))[1:4] == (1.0, False, True)
    env.reset()
    env.step(call("add", a=1, b=2))
    _, reward, terminated, _, info = env.step(call("answer", text="3"))
    assert (reward, terminated, info["solved"]) == (0.5, True, False)
    env.reset()
    with pytest.raises(UserError, match=r"env.check=tests.*: gave 'much'; must give a number from 0 to 1"):
        env.step(call("answer", text="much"))
    env.close()


def enough(attempt: Attempt) -> Any:
    assert all(result.text == str(sum(asked.arguments.values())) for asked, result in attempt.calls)
    return "much" if attempt.answer == "much" else len(attempt.calls) / attempt.task.check["least"]


def test_an_episode_goes_on_after_pickling_and_two_at_once_are_two_alone(desk: str, tasks: str) -> None:
    env = made(tasks, desk)
    env.reset(options={"task": "train-1"})
    env.step(call("add", a=1, b=2))
    other = pickle.loads(pickle.dumps(env))
    assert env.step(call("answer", text="9")) == other.step(call("answer", text="9"))


# A server that was started


def test_each_episode_has_a_server_and_a_folder_of_its_own(tasks: str, folders: Any, tmp_path: Path) -> None:
    """What one keeps the other does not see, nor does the next episode."""

    def told(env: Mcp, task: str) -> Iterator[str]:
        env.reset(options={"task": task})
        yield from (env.step(call("keep", note=f"{task} {i}"))[0] for i in range(2))

    pair = [made(tasks, command=DESK) for _ in range(2)]
    together = [*zip_longest(told(pair[0], "train-0"), told(pair[1], "train-1"))]
    assert together == [("train-0 0", "train-1 0"), ("train-0 0, train-0 1", "train-1 0, train-1 1")]
    assert len(folders()) == 2
    pair[1].timeout = 0.5
    with pytest.raises(WorldError, match="gave no answer in time"):
        pair[1].step(call("wait", seconds=600))
    assert len(folders()) == 1
    assert [*told(pair[0], "train-2")] == ["train-2 0", "train-2 0, train-2 1"]
    with pytest.raises(WorldError, match=r"mcp_server.py: .*; its last line: out of paper"):
        pair[0].step(call("die"))
    with pytest.raises(RuntimeError):
        pair[0].step(call("keep", note="x"))
    assert not folders()


def test_a_command_has_a_folder_and_the_variables_that_are_named_and_no_other(
    tasks: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DESK_NAME", "oak")
    monkeypatch.setenv("DESK_KEY", "hidden")
    look = (
        "import os, sys; print(sys.argv[1], os.environ.get('DESK_NAME'), os.environ.get('DESK_KEY'), file=sys.stderr)"
    )
    env = made(tasks, command=[sys.executable, "-c", look, "{folder}/db"], variables=["DESK_NAME"])
    with pytest.raises(WorldError, match=rf"its last line: {tmp_path}/{FOLDERS}\w+/db oak None$"):
        env.reset()


def tool(name: str = "a", **more: Any) -> dict[str, Any]:
    return {"name": name, "inputSchema": {"type": "object", **more}}


DEEP = '{"tools": [{"name": "a", "inputSchema": ' + '{"type": "object", "not": ' * 150 + "{}" + "}" * 150 + "}]}"
ABSURD: list[tuple[Any, str]] = [
    ([], "it has 0 tools with 0 characters"),
    ([{}], "validation error"),
    ([tool("a" * 65)], "; a name has 1 to 64 of letters"),
    ([tool("a b")], "it has a tool a b; a name has"),
    ([tool(), tool()], "it has a tool a; a name has"),
    ([tool(f"a{i}") for i in range(129)], "it has 129 tools"),
    ([tool(title="x" * 10**6)], "it has 1 tools with 10000"),
    ([tool(properties={"x": {"enum": 1}})], "its tool a has a schema that is none (1 is not of type 'array')"),
    ([tool(properties={"x": {"type": ["text"]}})], "its tool a has a schema that is none"),
    ([tool("answer")], "has a tool that is called answer"),
    (DEEP, "nested too deeply"),
    ("[" * 100_000, "gave no answer in time"),
]


def test_a_list_of_tools_that_is_absurd_is_refused_in_a_line(tasks: str, tmp_path: Path) -> None:
    place = tmp_path / "list"
    for listed, says in ABSURD:
        place.write_text(listed if isinstance(listed, str) else json.dumps({"tools": listed}))
        waits = 2.0 if "in time" in says else 60.0
        env = made(tasks, command=[sys.executable, str(HERE / "mcp_raw.py"), str(place)], start_timeout=waits)
        with pytest.raises(WorldError) as failed:
            env.reset()
        assert says in str(failed.value)
        assert str(failed.value).isprintable()
        assert len(str(failed.value)) < 600
    place.write_text('{"tools": []}')
    with pytest.raises(UserError, match=r"^command=.*it has 0 tools.*; start it by hand"):
        env.probe()


# In a run


def test_the_rollout_retries_a_server_that_dies_and_counts(
    desk: str, tasks: str, agent_spec: AgentSpec, folders: Any
) -> None:
    """The first tries fail at the start, one after a call; the rest of the episodes are played, over HTTP."""
    alone = replace(agent_spec, plans="never", max_length=2000, max_tokens={"planner": 200, "executor": 200})
    specs = [EpisodeSpec(Task("mcp", f"train-{i}", "train", 0), i, 0, alone) for i in range(4)]
    commands = iter([[sys.executable, "-c", ""]] * (ATTEMPTS - 1) + [DESK])
    actions = iter([call("die")])

    def make() -> Mcp:
        command = next(commands, None)
        return made(tasks, command=command) if command else made(tasks, desk, max_turns=1)

    policy = ScriptedPolicy(agent_spec.chat, lambda prompt: f"Action: {next(actions, call('add', a=1, b=2))}", slots=1)
    episodes = run_episodes(specs, make, policy, ("mcp",))
    assert [episode.outcome == "broken" for episode in episodes] == [True, False, False, False]
    assert [turn.observation for episode in episodes[1:] for turn in episode.turns] == ["3"] * 3


SIZES = ("model.max_length=256", "model.max_action_tokens=8", "train.steps=2", "train.tasks=1", "train.group_size=2")
SIZES += ("train.micro_tokens=512", "panel.tasks=1", "panel.samples=1", "trainer.threads=1", "tracking.uri=off")
SIZES += (
    "stage=coordination",
    "stage.planner=policy",
    "agent=naive",
    "model.lora.rank=2",
    f"model.lora.targets=[{','.join(TARGETS)}]",
)


def trained(folder: Path, *words: str) -> list[dict[str, Any]]:
    """Metrics of two steps."""
    lines = ["env=mcp", *SIZES, *words]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "learning_curve", lambda *given: None)
        running.run(composed_job(parse([]), lines).config, folder)
    return [json.loads(line) for line in RunFolder(folder).metrics.read_text().splitlines()]


def test_two_steps_of_training(desk: str, tasks: str, tiny: Path, tmp_path: Path) -> None:
    words = (f"model.path={tiny}", f"env.url={desk}", f"env.tasks_file={tasks}", "env.max_turns=2")
    steps = trained(tmp_path / "run", *words)
    assert [line["step"] for line in steps] == [1, 2]
    assert [line["train/broken"] for line in steps] == [0, 0]


TIME = [sys.executable, "-m", "mcp_server_time", "--local-timezone", "UTC"]
NOON = {"source_timezone": "Asia/Tokyo", "time": "12:00", "target_timezone": "Asia/Kolkata"}
no_time = pytest.mark.skipif(not find_spec("mcp_server_time"), reason="NOT TESTED: mcp-server-time is not installed")


@no_time
def test_somebody_elses_server_is_played(tmp_path: Path) -> None:
    """mcp-server-time, from PyPI."""
    line = {
        "id": "a",
        "split": "train",
        "instruction": "At noon in Tokyo, what time is it in Kolkata?",
        "answer": "08:30",
    }
    env = made(written(tmp_path, line), command=TIME)
    env.reset()
    assert [tool["function"]["name"] for tool in env.tools] == ["get_current_time", "convert_time", "answer"]
    text, _, _, _, info = env.step(call("convert_time", **NOON))
    assert json.loads(text)["target"]["datetime"].split("T")[1] == "08:30:00+05:30"
    assert info["valid"]
    text, _, _, _, info = env.step(call("convert_time", **NOON | {"time": "noon"}))
    assert (text[:5], info["valid"]) == ("Error", True)
    assert env.step(call("answer", text="08:30"))[4]["solved"]


@no_time
@pytest.mark.slow
def test_two_steps_of_training_with_somebody_elses_server(tmp_path: Path) -> None:
    """Nano and native calls of tools, whose schemas are longer than what it has learned to read."""
    lines = [
        {"id": s, "split": s, "instruction": f"What time is it in {s}?", "answer": s} for s in ("train", "dev", "test")
    ]
    command = f"env.command=[{','.join(TIME)}]"
    words = (command, f"env.tasks_file={written(tmp_path, *lines)}", "env.max_turns=2", "agent.replies=tool_call")
    steps = trained(tmp_path / "run", *words, "model.max_length=4096", "train.micro_tokens=8192")
    assert all(line["env/unread_replies"] > 0 for line in steps)  # nano writes no calls
    assert [line["train/broken"] for line in steps] == [0, 0]


# What a user got wrong


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"command": None}, "env.command=None: either a command or env.url has to be given"),
    ({"url": "http://127.0.0.1:1"}, "either a command or env.url has to be given"),
    ({"command": "python server.py"}, "env.command=python server.py: must be a list of words"),
    ({"command": []}, r"env.command=\[\]: must be a list of words"),
    ({"command": None, "url": "127.0.0.1"}, "env.url=127.0.0.1: must be the address"),
    ({"command": None, "url": "http://me:key@127.0.0.1"}, "env.url: holds a user or a password"),
    ({"variables": ["NO_SUCH"]}, r"env.variables=\['NO_SUCH'\]: .*; export NO_SUCH"),
    ({"timeout": 0}, "env.timeout=0: must be above 0"),
    ({"result_chars": 0}, "env.result_chars=0: must be above 0"),
    ({"tasks_file": None}, "env.tasks_file=null: has no value"),
    ({"tasks_file": "nope.jsonl"}, "env.tasks_file=nope.jsonl: cannot be read"),
    ({"split": "tset"}, "env.split=tset: must be one of train, dev, test"),
    ({"check": "os.system"}, "env.check=os.system: is not trusted and was not imported"),
    ({"check": "tests.envs.test_mcp.nope"}, "env.check=tests.envs.test_mcp.nope: is no function"),
]


def test_what_a_user_got_wrong(tasks: str) -> None:
    trust.MODULES.add("tests")
    for given, said in WRONG:
        with pytest.raises(UserError, match=said) as wrong:
            load("mcp", **{"command": ["true"], "tasks_file": tasks} | given)
        assert str(wrong.value).startswith("env.")
        assert "\n" not in str(wrong.value)


TASK = {"id": "a", "split": "train", "instruction": "Go.", "answer": "x"}


NO_TASKS: list[tuple[list[Any], str]] = [
    (["{"], "line 1: Invalid JSON"),
    ([TASK, "", TASK | {"id": 3}], "line 3: id: Input should be a valid string"),
    ([TASK | {"split": "tset"}], "line 1: split: Input should be 'train', 'dev' or 'test'"),
    ([TASK | {"anser": "x"}], "line 1: anser: Extra inputs are not permitted"),
    ([TASK, TASK], "line 2: task a stands in line 1 too"),
    ([TASK, TASK | {"id": "b", "split": "test"}], "line 2: its instruction is one of the split train too"),
    ([TASK | {"answer": None}], "task a has no answer; give it one, or a function"),
    ([TASK | {"split": "test"}], "has no task of the split train"),
    ([], "has no task of the split train"),
]


def test_a_task_file_that_is_wrong_is_refused_with_its_line(tmp_path: Path) -> None:
    for lines, said in NO_TASKS:
        with pytest.raises(UserError) as wrong:
            load("mcp", command=["true"], tasks_file=written(tmp_path, *lines))
        assert said in str(wrong.value)
        assert "\n" not in str(wrong.value)


def test_an_address_where_nobody_is_ends_with_a_line(tasks: str) -> None:
    with pytest.raises(UserError, match=r"^url=http://127.0.0.1:9/mcp: ") as wrong:
        made(tasks, "http://127.0.0.1:9/mcp").probe()
    assert os.linesep not in str(wrong.value)
