"""The judge that is an API model: parsing of its replies, grading during the rollout, and runs in which it fails."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from time import sleep
from typing import Any

import pytest
from omegaconf import OmegaConf

from pilotrl.cli.compose import composed_job, parse
from pilotrl.envs.toy import ToyEnv
from pilotrl.rewards.judge import Item, PlanItem
from pilotrl.rewards.judge.ensemble import Ensemble
from pilotrl.rewards.judge.openai import OpenAiJudge, read_grades, read_verdict
from pilotrl.runs import run as running
from pilotrl.store.run_folder import RunFolder
from pilotrl.types import PlanScores, UserError, WorldError
from tests.endpoint.server import HTML, failure, said, serving, stop, verdict

RIGHT = '{"reason": "so", "adherence": 2}'


def settings(url: str, **changes: Any) -> dict[str, Any]:
    """What `conf/judge/openai.yaml` gives, for a server of ours and little patience."""
    composed: Any = OmegaConf.to_container(composed_job(parse([]), ["judge=openai"]).config.judge, resolve=True)
    ours = {"base_url": url, "credential": None, "cache": None, "backoff": 0.01, "attempts": 3}
    return {key: value for key, value in composed.items() if key not in ("_target_", "cache")} | ours | changes


def judge(url: str, resolve: Any = None, **changes: Any) -> OpenAiJudge:
    return OpenAiJudge(resolve=resolve, **settings(url, **changes))


def by_action(request: dict[str, Any], _: int = 0) -> Any:
    """The verdict on an action is its length modulo 3."""
    text = request["messages"][0]["content"].partition("<action>\n")[2].partition("\n</action>")[0]
    return verdict(len(text) % 3)


READ = {
    "bare": RIGHT,
    "fenced": f"```json\n{RIGHT}\n```",
    "after talk": f"Let me see. The step {{says}} more. {RIGHT} So 2.",
    "after thinking": f'<think>{{"reason": "at first", "adherence": 0}}</think>\n{RIGHT}',
    "with more": '{"reason": "so", "adherence": 2, "sure": true}',
}


@pytest.mark.parametrize("text", READ.values(), ids=READ)
def test_a_verdict_is_read_wherever_it_stands(text: str) -> None:
    assert read_verdict(text) == 2


UNREAD = {
    "nothing": "",
    "prose": "The action follows the step in full: 2.",
    "half": RIGHT[:-3],
    "out of range": RIGHT.replace("2", "3"),
    "below": RIGHT.replace("2", "-1"),
    "a string": RIGHT.replace("2", '"2"'),
    "a fraction": RIGHT.replace("2", "1.5"),
    "yes": RIGHT.replace("2", "true"),
    "null": RIGHT.replace("2", "null"),
    "no reason": '{"adherence": 2}',
    "a list": "[2]",
}


@pytest.mark.parametrize("text", UNREAD.values(), ids=UNREAD)
def test_what_is_no_verdict_is_not_read(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        read_verdict(text)


def test_grades_of_a_plan_are_three_numbers_from_1_to_5() -> None:
    text = '{"reason": "", "correctness": 5, "executability": 4, "standardization": 1}'
    assert read_grades(text) == PlanScores(correctness=5, executability=4, standardization=1)
    for wrong in (text.replace("5", "6"), text.replace("1", "0"), text.replace("executability", "speed")):
        with pytest.raises(ValueError):  # noqa: PT011
            read_grades(wrong)


def test_it_is_asked_about_step_observation_and_action_in_words() -> None:
    items = [Item("open the red shirt", "b3: red shirt {x}", "click[b3]", "a shirt"), Item("go on", "", "wait")]
    with serving(by_action) as server:
        judge(server.url, lambda seen, did, reply: "open red shirt" if did == "click[b3]" else did).grade(items)
    asked = [body["messages"][0]["content"] for body in server.seen]
    (shirt,) = [text for text in asked if "red shirt" in text]
    for part in (
        "step>\nopen the red shirt\n<",
        "observation>\nb3: red shirt {x}\n<",
        "action>\nclick[b3] (open red shirt)\n<",
    ):
        assert part in shirt
    assert any("<action>\nwait\n</action>" in text for text in asked)
    form = server.seen[0]["response_format"]["json_schema"]
    assert form["strict"]
    assert form["schema"]["required"] == ["reason", "adherence"]
    assert form["schema"]["additionalProperties"] is False


def test_what_stays_unreadable_is_missing() -> None:
    items = [("s", "o", "a" * n) for n in range(6)]
    with serving(lambda request, _: said("2") if "\\naaa\\n" in json.dumps(request) else by_action(request)) as server:
        strict = judge(server.url)
        assert strict.grade(items) == [0, 1, 2, None, 1, 2]
    assert strict.endpoints()[0].spent()["unreadable"] == 1


def test_plans_are_graded_beside_what_would_work() -> None:
    known = PlanItem(
        "Press red, then blue.", "You pressed red.", ("press[red]",), ("push blue",), ("push the blue button",)
    )
    grades = {"reason": "", "correctness": 5, "executability": 5, "standardization": 4}
    with serving(lambda request, _: said(json.dumps(grades))) as server:
        scores = judge(server.url).grade_plans([known, known._replace(steps=(), reference=(), actions=())])
    assert scores == [PlanScores(5, 5, 4)] * 2
    with_plan, without = sorted((body["messages"][0]["content"] for body in server.seen), key=len, reverse=True)
    for part in (
        "blue.\n</task>",
        "press[red]\n</a",
        "red.\n</obs",
        "<plan>\n1. push blue\n</",
        "1. push the blue button\n</",
    ):
        assert part in with_plan
    assert "<plan>\n(empty)\n" in without
    assert "reference" not in without


@pytest.fixture
def understood(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment says that it understood everything that random weights write: else no judge would be asked."""
    told = ToyEnv._info
    monkeypatch.setattr(ToyEnv, "_info", lambda env, valid: told(env, True))


@pytest.fixture
def judged(training: Callable[..., Any], understood: None) -> Callable[..., Any]:
    """A data source whose episodes a judge grades."""

    def source(judge: Any, **changes: Any) -> Any:
        made = training(**changes).source
        made.scoring = replace(made.scoring, judges={"toy": judge})
        return made

    return source


def test_it_grades_while_other_episodes_run(judged: Callable[..., Any]) -> None:
    asked = threading.Event()

    def script(request: dict[str, Any], _: int) -> Any:
        asked.set()
        return by_action(request)

    with serving(script) as server:
        source = judged(judge(server.url))
        waited = []
        source.on_episode = lambda step, done, total: waited.append(asked.wait(60) if done == 1 else True)
        source.batch(0)
    assert len(waited) > 1
    assert all(waited), "the first episode was over, and nobody asked for its verdicts"


def test_verdicts_do_not_depend_on_when_they_arrive(judged: Callable[..., Any]) -> None:
    def late(request: dict[str, Any], _: int) -> Any:
        sleep(Random(str(request)).random() / 50)
        return by_action(request)

    batches = []
    for script in (by_action, late):
        with serving(script) as server:
            source = judged(judge(server.url))
            batches.append(source.batch(0))
            distinct = {json.dumps(body) for body in server.seen}
            assert len(distinct) == len(server.seen), "what is equal is asked once"
    assert batches[0].episodes == batches[1].episodes
    assert {turn.adherence for episode in batches[0].episodes for turn in episode.turns} <= {0, 1, 2}


class Fixed:
    """A judge with one opinion; None: it has none, and "fails": it fails."""

    def __init__(self, *, resolve: Any, says: Any) -> None:
        self.says = says

    def grade(self, items: list[Item]) -> list[int | None]:
        if self.says == "fails":
            raise WorldError("no")
        return [self.says] * len(items)

    def grade_plans(self, items: list[PlanItem]) -> list[PlanScores | None]:
        return [None if self.says is None else PlanScores(self.says, 3, 5)] * len(items)


VOTES = {
    "median": ("median", [0, 2, 2], 2),
    "median of two is the lower": ("median", [0, 2], 0),
    "mean": ("mean", [0, 0, 2], 1),
    "mean rounds a half up": ("mean", [0, 1], 1),
    "who has no verdict has no vote": ("median", [None, 2], 2),
    "who fails has no vote": ("median", ["fails", 0, 0], 0),
    "fewer than half": ("median", [None, "fails", 2], None),
    "nobody": ("mean", [None], None),
}


@pytest.mark.parametrize(("vote", "says", "verdict"), VOTES.values(), ids=VOTES)
def test_an_ensemble_votes(vote: str, says: list[Any], verdict: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    members = {str(i): {"_target_": f"{__name__}.Fixed", "says": say} for i, say in enumerate(says)}
    monkeypatch.setattr("pilotrl.config.trust.MODULES", {__name__})
    monkeypatch.setattr("pilotrl.config.trust.import_module", lambda name: __import__("sys").modules[name])
    council = Ensemble(resolve=None, vote=vote, members=members)
    assert council.grade([("s", "o", "a")] * 2) == [verdict] * 2
    assert not council.endpoints()


def test_an_ensemble_votes_on_each_score_of_a_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pilotrl.config.trust.MODULES", {__name__})
    monkeypatch.setattr("pilotrl.config.trust.import_module", lambda name: __import__("sys").modules[name])
    item = PlanItem("", "", (), (), ())
    for says, scores in (([1, 2, 4], PlanScores(2, 3, 5)), ([None, None, 4], None)):
        members = {str(i): {"_target_": f"{__name__}.Fixed", "says": say} for i, say in enumerate(says)}
        assert Ensemble(resolve=None, vote="median", members=members).grade_plans([item]) == [scores]


def test_an_ensemble_of_an_endpoint_and_rules_tells_what_it_asks() -> None:
    with serving(by_action) as server:
        members = {
            "rule": {"_target_": "pilotrl.rewards.judge.rule.RuleJudge"},
            "openai": {"_target_": "pilotrl.rewards.judge.openai.OpenAiJudge", **settings(server.url)},
        }
        council = Ensemble(resolve=None, vote="mean", members=members)
        assert council.grade([("press red", "", "press[red]")]) == [2]
        (end,) = council.endpoints()
        assert end.spent()["requests"] == server.asked == 1
    for wrong, line in (({"vote": "all"}, "vote=all: must be one of"), ({"members": {}}, "must name at least one")):
        with pytest.raises(UserError, match=line):
            Ensemble(**{"resolve": None, "vote": "mean", "members": members} | wrong)


def test_json_without_end_cannot_be_read() -> None:
    with pytest.raises(ValueError, match="JSON without end"):
        read_verdict('{"adherence": ' + "[" * 100_000)


SMALL = (
    "env=toy",
    "stage=adherence",
    "judge=openai",
    "judge.credential=null",
    "judge.backoff=0.01",
    "judge.attempts=3",
)
SMALL += (
    "model.max_length=192",
    "model.max_plan_tokens=12",
    "model.max_action_tokens=8",
    "train.steps=2",
    "train.tasks=2",
)
SMALL += ("train.group_size=2", "train.micro_tokens=512", "panel.tasks=2", "panel.samples=1", "panel.greedy=false")
SMALL += ("trainer.threads=1", "tracking.uri=off", "judge.price_prompt=1", "judge.price_reply=2", "judge.timeout=100")


@pytest.fixture
def play(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, understood: None) -> Callable[..., RunFolder]:
    """A whole run of two steps with an API model as judge; the cache is in the test's folder."""
    monkeypatch.setattr(running, "learning_curve", lambda *given: None)

    def run(name: str, url: str, *more: str) -> RunFolder:
        folder = RunFolder(tmp_path / name)
        ours = (f"model.path={tiny}", f"judge.base_url={url}", f"judge.cache={tmp_path}/replies.db")
        running.run(composed_job(parse([]), [*SMALL, *ours, *more]).config, folder.path)
        return folder

    return run


def verdicts(folder: RunFolder) -> list[list[int | None]]:
    records = map(json.loads, folder.episodes.read_text().splitlines())
    return [[turn["adherence"] for turn in record["turns"]] for record in records]


BAD = (
    failure(429, Retry_After="0"),
    failure(500),
    HTML,
    said('{"reason": "half'),
    verdict("2"),
    verdict(7),
    said(None),
)


def test_a_run_survives_a_server_that_misbehaves_and_counts_what_it_did(play: Callable[..., RunFolder]) -> None:
    """Every question goes wrong once, each in one of seven ways; some go wrong for ever."""

    def script(request: dict[str, Any], number: int) -> Any:
        draw = Random(json.dumps(request["messages"][:1]))
        bad, lasts = draw.choice(BAD), draw.random() < 0.2
        return bad if number == 0 or lasts else by_action(request)

    with serving(script) as server:
        first = play("first", server.url)
        asked, times = server.asked, dict(server.times)
    total = json.loads(first.summary.read_text())["endpoints"]
    lost = sum(count // 3 for count in times.values() if count != 2)
    assert all(count == 2 or count % 3 == 0 for count in times.values()), "two until it is right, or three in vain"
    assert total["judge/requests"] == asked
    assert total["judge/unreadable"] + total["judge/unanswered"] == lost > 0
    assert total["judge/retries"] == asked - lost - [*times.values()].count(2)
    paid = total["judge/prompt_tokens"] / 10
    assert total["judge/reply_tokens"] == 5 * paid > 0
    assert total["judge/cost"] == pytest.approx(paid * (10 * 1 + 5 * 2) / 1e6)
    lines = [json.loads(line) for line in first.metrics.read_text().splitlines()]
    assert sum(line["judge/requests"] for line in lines) < asked, "the panel after training is in the total alone"
    assert {verdict for turns in verdicts(first) for verdict in turns} > {None}

    with serving(by_action) as other:
        play("again", other.url)
    assert {count for name, count in times.items() if name in other.times} <= {3, 6, 9}, (
        "what was read is not asked again"
    )


def test_a_second_run_sends_no_request_and_is_the_same(play: Callable[..., RunFolder]) -> None:
    with serving(by_action) as server:
        first = play("first", server.url)
        assert server.asked > 0
    with serving(by_action) as other:
        second = play("second", other.url)
        assert not other.seen
    one, two = (json.loads(folder.summary.read_text()) for folder in (first, second))
    assert verdicts(first) == verdicts(second)
    assert one["weights_sha256"] == two["weights_sha256"]
    assert two["endpoints"]["judge/cached"] == one["endpoints"]["judge/requests"]
    assert two["endpoints"]["judge/cost"] == two["endpoints"]["judge/requests"] == 0


def test_a_run_ends_whose_judge_dies_half_way(play: Callable[..., RunFolder]) -> None:
    with serving(lambda request, number: by_action(request)) as server:

        def script(request: dict[str, Any], number: int) -> Any:
            if server.asked > 6:
                threading.Thread(target=stop, args=(server,)).start()
                return failure(500)
            return by_action(request)

        server.script = script
        folder = play("run", server.url)
    summary = json.loads(folder.summary.read_text())
    assert summary["train"]["steps"] == 2
    assert summary["train"]["unscored_verdicts"] > 0
    assert summary["endpoints"]["judge/unanswered"] > 0
    assert {verdict for turns in verdicts(folder) for verdict in turns} > {None}


def test_a_key_is_in_nothing_that_a_run_leaves(play: Callable[..., RunFolder], monkeypatch: pytest.MonkeyPatch) -> None:
    key = "sk-0123456789abcdef"
    monkeypatch.setenv("SOME_KEY", key)
    with serving(
        lambda request, number: failure(401, f"{key} is wrong") if number % 2 else by_action(request)
    ) as server:
        folder = play("run", server.url, "judge.credential=SOME_KEY", "train.steps=1")
        assert server.keys == {f"Bearer {key}"}
    for path in folder.path.rglob("*"):
        assert path.is_dir() or key.encode() not in path.read_bytes(), path
