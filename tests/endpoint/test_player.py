"""Evaluation of an API model: every paradigm, no repeated requests, and failed calls break episodes, never scored zero."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from pilotrl import evaluate
from pilotrl.cli.evaluation_request import evaluated
from pilotrl.cli.preflight import prepare
from pilotrl.endpoint import Endpoint
from pilotrl.engine.openai import FILLER, NO_REPLY, Transcript
from pilotrl.types import UserError, WorldError
from tests.endpoint.server import HTML, failure, said, serving

KEY = "sk-player-0123456789"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PLAYER_KEY", KEY)


def asked(request: dict[str, Any]) -> str:
    return str(request["messages"][-1]["content"])


def player(request: dict[str, Any], number: int = 0) -> Any:
    """Solves ToyEnv: presses the buttons in order, and plans or thinks if the prompt asks for it."""
    if "Say yes." in asked(request):
        return said("Yes.")
    told = next(message["content"] for message in request["messages"] if "Press " in message["content"])
    colors = re.findall(r"\w+", re.findall(r"Press (.*?)\.", told)[0].replace("then", ""))
    done = sum(message["content"].count("You pressed") for message in request["messages"] if message["role"] == "user")
    if "Write the plan" in asked(request):
        return said("\n".join(f"{i}. push the {color} button" for i, color in enumerate(colors[done:], done + 1)))
    thought = "Thought: it is next\n" if "Thought" in asked(request) else ""
    return said(f"<think>hm</think>{thought}Action: press[{colors[done]}]")


def line(url: str, *more: str, cache: str = "null") -> list[str]:
    at = {
        "base_url": url,
        "credential": "PLAYER_KEY",
        "cache": cache,
        "backoff": "0.01",
        "attempts": "2",
        "model": "big",
    }
    small = ("env=toy", "panel.tasks=3", "panel.samples=2", "root=runs", "tracking=off")
    return ["model=openai", *(f"model.endpoint.{key}={value}" for key, value in at.items()), *small, *more]


def found() -> dict[str, Any]:
    """What the last evaluation wrote."""
    last = max(Path("runs").glob("*/*-evaluate-toy/evaluation.json"), key=lambda path: path.parent.name)
    return {**json.loads(last.read_text()), "episodes": (last.parent / "episodes.jsonl").read_text()}


def test_every_paradigm_is_evaluated_on_the_same_tasks(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(player) as server:
        assert evaluate.main(line(server.url, "agents=[adaplan,plan_once,react,naive]")) == 0
    summary, table = found(), capsys.readouterr().out
    assert [row["agent"] for row in summary["sides"]] == ["adaplan", "plan_once", "react", "naive"]
    assert all(
        row["eval"]["after"]["success"] == row["eval"]["greedy"]["after"]["success"] == 1.0 for row in summary["sides"]
    )
    assert {row["broken_episodes"] for row in summary["sides"]} == {0}
    assert (summary["sides"][0]["checkpoint"], summary["sides"][0]["model"]) == (None, "big")
    episodes = [json.loads(text) for text in summary["episodes"].splitlines()]
    assert len(episodes) == 4 * 3 * 3
    for episode in episodes:
        turns, side = len(episode["turns"]), int(episode["phase"][0])
        plans = {1: turns, 2: 1, 3: 0, 4: 0}[side]
        assert [call["role"] for call in episode["calls"]].count("planner") == plans
        assert episode["tokens"] == 5 * (turns + plans), "as the server counts them"
        assert all(turn["well_formed"] for turn in episode["turns"])
    for row in summary["sides"]:
        calls = sum(len(e["calls"]) for e in episodes if e["phase"].startswith(f"{row['side']}/"))
        assert row["endpoints"]["model/requests"] == calls
    assert "big" in table
    assert KEY not in table + "".join(path.read_text() for path in Path("runs").rglob("*") if path.is_file())
    assert {body["temperature"] for body in server.seen if "Say yes." not in asked(body)} == {0.6, 0.0}
    assert {body["top_p"] for body in server.seen if "top_p" in body} == {0.9, 1.0}
    assert server.keys == {f"Bearer {KEY}"}


def test_a_model_is_sent_the_conversation_as_messages() -> None:
    with serving(player) as server:
        assert (
            evaluate.main(line(server.url, "agent=adaplan", "panel.tasks=1", "panel.samples=1", "panel.greedy=false"))
            == 0
        )
    last = server.seen[-1]["messages"]
    assert [message["role"] for message in last] == ["system", *["user", "assistant"] * (len(last) // 2 - 1), "user"]
    assert "hm" not in str([message for message in last if message["role"] == "assistant"]), (
        "earlier thoughts are left out"
    )


def test_a_repeated_evaluation_sends_no_request(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("agents=[adaplan,react]",)
    with serving(player) as server:
        assert evaluate.main(line(server.url, *words, cache="replies.db")) == 0
        before = found()
        count = server.asked
        monkeypatch.setattr(Endpoint, "known", {})  # as in another process
        assert evaluate.main(line(server.url, *words, cache="replies.db")) == 0
        assert server.asked == count
    after = found()
    assert after["episodes"] == before["episodes"]
    assert [row["eval"] for row in after["sides"]] == [row["eval"] for row in before["sides"]]
    assert all(row["endpoints"]["model/requests"] == 0 < row["endpoints"]["model/cached"] for row in after["sides"])


def test_samples_of_a_task_are_separate_requests() -> None:
    with serving(lambda request, number: said("Action: press[red]" if number else "Action: press[teal]")) as server:
        assert evaluate.main(line(server.url, "agent=naive", "panel.greedy=false", "panel.tasks=1")) == 0
    first = [json.loads(text)["turns"][0]["action"] for text in found()["episodes"].splitlines()]
    assert sorted(first) == ["press[red]", "press[teal]"]


FAILURES = {
    "HTML": HTML, "500": failure(500), "refused": failure(400), "half a JSON": (200, said("7")[1][:40], {}),
    "a message that is none": said("7", choices=[{"message": ["7"]}]),
}  # fmt: skip


@pytest.mark.parametrize("answer", FAILURES.values(), ids=FAILURES)
def test_a_failed_call_breaks_its_episode_which_is_not_scored_zero(answer: Any) -> None:
    tasks: list[str] = []

    def script(request: dict[str, Any], number: int) -> Any:
        told = re.findall(r"Press .*?\.", str(request["messages"]))
        if told and told[0] not in tasks:
            tasks.append(told[0])
        return answer if told and told[0] == tasks[0] and "You pressed" in str(request["messages"]) else player(request)

    with serving(script) as server:
        assert (
            evaluate.main(line(server.url, "agent=adaplan", "model.endpoint.concurrency=1", "panel.greedy=false")) == 0
        )
    (row,), episodes = found()["sides"], [json.loads(text) for text in found()["episodes"].splitlines()]
    assert row["broken_episodes"] == 2, "both samples of one task"
    assert [episode["outcome"] for episode in episodes].count("broken") == 2
    assert row["eval"]["after"]["success"] == 1.0, "of those that were played"
    assert row["endpoints"]["model/unanswered"] + row["endpoints"]["model/unreadable"] == 2 * 3, "in three worlds each"


def test_a_model_without_any_reply_leaves_nothing_to_compare(capsys: pytest.CaptureFixture[str]) -> None:
    prices = ("model.endpoint.price_prompt=1", "model.endpoint.price_reply=1")
    with serving(lambda request, number: player(request) if "Say yes." in asked(request) else failure(400)) as server:
        assert evaluate.main(line(server.url, "agent=naive", *prices)) == 1
    said = "evaluation, own plans, sampled: 6 of 6 episodes are broken; env=toy, or a model behind an address, failed"
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"pilotrl: {said}")
    assert not list(Path().rglob("evaluation.json")), "no table of nothing"


def test_malformed_replies_count_as_failures_of_the_model() -> None:
    with serving(lambda request, number: said("I am a language model.")) as server:
        assert evaluate.main(line(server.url, "agent=adaplan", "panel.greedy=false")) == 0
    (row,) = found()["sides"]
    assert (row["broken_episodes"], row["eval"]["after"]["success"]) == (0, 0.0)


BAD = {
    "no key": (
        ("model.endpoint.credential=NOBODY_SET",),
        "model.endpoint.credential=NOBODY_SET: this environment variable",
    ),
    "no address": (("model.endpoint.base_url=here",), "model.endpoint.base_url=here: must be an address"),
    "nobody there": (("model.endpoint.base_url=http://127.0.0.1:9/v1",), "model.endpoint.base_url: does not answer"),
    "a temperature": (("model.endpoint.temperature=1",), "model.endpoint.temperature=1: the evaluation set has one"),
    "unknown key": (("model.endpoint.modle=x",), "model.endpoint.modle=x: "),
    "unknown paradigm": (("agents=[reactt]",), "agent=reactt: there is no such option; the nearest is react"),
}


@pytest.mark.parametrize(("words", "told"), BAD.values(), ids=BAD)
def test_what_is_wrong_is_one_line_and_leaves_nothing(words: tuple[str, ...], told: str, tmp_path: Path) -> None:
    with serving(player) as server, pytest.raises(UserError) as caught:
        evaluated(line(server.url, *words))
    assert str(caught.value).startswith(told)
    assert "\n" not in str(caught.value)
    assert not [*tmp_path.iterdir()]


def test_it_is_not_trained() -> None:
    with pytest.raises(UserError, match=r"^model=gpt-4o: is behind an address, and can be played but not trained; "):
        prepare(["model=openai", "env=toy"])
    with pytest.raises(UserError, match=r"^checkpoint: has no value"):
        evaluated(["env=toy"])


def test_a_transcript_maps_messages_to_tokens_and_back() -> None:
    chat = Transcript()
    ids = chat.render(
        [("system", "s"), ("user", "u"), ("assistant", [chat.token("assistant", "<think>t</think>\na "), FILLER])]
    )
    assert chat.messages(ids) == (("system", "s"), ("user", "u"), ("assistant", "a"))
    assert chat.render([("user", "u")]) == [ids[1]]
    with pytest.raises(WorldError):
        chat.decode([NO_REPLY])
