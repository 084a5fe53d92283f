"""The teacher that is an API model: its plans are followed, requested concurrently, and do not depend on arrival times."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from random import Random
from time import sleep
from typing import Any

import pytest
from omegaconf import OmegaConf

from pilotrl.cli.compose import composed_job, parse
from pilotrl.endpoint import Endpoint
from pilotrl.prompts.parsing import number
from pilotrl.teacher.openai import OpenAiTeacher, prompt, read_plan
from pilotrl.types import Episode, Task, Turn
from tests.endpoint.server import failure, said, serving


def teacher(url: str, **changes: Any) -> OpenAiTeacher:
    composed: Any = OmegaConf.to_container(composed_job(parse([]), ["teacher=openai"]).config.teacher, resolve=True)
    ours = {"base_url": url, "credential": None, "cache": None, "backoff": 0.01, "attempts": 2}
    return OpenAiTeacher(**{key: value for key, value in composed.items() if key != "_target_"} | ours | changes)


def asked_for(request: dict[str, Any]) -> int:
    """The number of the first step that is wanted."""
    return int(re.findall(r"from step (\d+) on", request["messages"][0]["content"])[0])


def planned(request: dict[str, Any], _: int = 0) -> Any:
    """Two steps that tell which they are."""
    start = asked_for(request)
    return said(f"{start}. push button {start}\n{start + 1}. push button {start + 1}")


READ = {
    "bare": ("2. push red\n3. push blue", ("push red", "push blue")),
    "framed": ("Here is the plan:\n```\n2. push red\n3. push blue\n```\nGood luck!", ("push red", "push blue")),
    "after thinking": ("<think>1. no\n2. no</think>\n2. push red", ("push red",)),
    "apart": ("2. push red\n\n3. push blue\n", ("push red", "push blue")),
}


@pytest.mark.parametrize(("text", "plan"), READ.values(), ids=READ)
def test_a_plan_is_parsed_out_of_surrounding_text(text: str, plan: tuple[str, ...]) -> None:
    assert read_plan(text, 2) == plan


@pytest.mark.parametrize("text", ["", "push red", "1. push red", "2. push red\n4. push blue", "2.", "- push red"])
def test_other_text_is_not_parsed_as_a_plan(text: str) -> None:
    with pytest.raises(ValueError, match="no lines numbered 2, 3"):
        read_plan(text, 2)


def test_the_teachers_prompt_has_observations_actions_and_the_current_plan() -> None:
    turn = Turn(("push {red}",), "", "press[red]", "You pressed red.", True, True, 0.5)
    text = prompt(
        Episode(Task("toy", "red-blue", "train", 0), 0, 0, "Press red, then blue.", turns=[turn]), ("push {red}",)
    )
    for part in (
        "<task>\nPress red, then blue.\n<",
        "Action: press[red]\nYou pressed red.\n<",
        "1. push {red}\n<",
        'with "2."',
    ):
        assert part in text


@pytest.fixture
def taught(training: Callable[..., Any]) -> Callable[..., Any]:
    """A data source whose plans a teacher writes."""
    return lambda tutor, **changes: training(agent_spec={"teacher": tutor}, **changes).source


def plans(source: Any) -> Iterator[tuple[int, Turn]]:
    for episode in source.batch(0).episodes:
        yield from enumerate(episode.turns, 1)


def test_its_plans_are_the_current_plans(taught: Callable[..., Any]) -> None:
    with serving(planned) as server:
        for t, turn in plans(taught(teacher(server.url))):
            assert turn.plan == tuple(f"push button {i}" for i in range(1, t + 2))


def test_a_plan_that_cannot_be_parsed_leaves_the_current_one_and_is_counted(taught: Callable[..., Any]) -> None:
    def script(request: dict[str, Any], _: int) -> Any:
        return planned(request) if asked_for(request) == 1 else said("I would rather not.")

    with serving(script) as server:
        tutor = teacher(server.url)
        turns = [*plans(taught(tutor))]
        (end,) = tutor.endpoints()
    assert max(t for t, _ in turns) > 1
    assert {number(turn.plan) for _, turn in turns} == {"1. push button 1\n2. push button 2"}
    assert end.spent()["unreadable"] > 0


def test_the_policy_acts_without_a_plan_if_there_is_none(taught: Callable[..., Any]) -> None:
    with serving(lambda request, number: failure(400)) as server:
        assert {number(turn.plan) for _, turn in plans(taught(teacher(server.url)))} == {""}


def test_plans_of_several_episodes_are_requested_concurrently(taught: Callable[..., Any]) -> None:
    meeting = threading.Barrier(4)

    def script(request: dict[str, Any], number: int) -> Any:
        if asked_for(request) == 1:
            meeting.wait(100)  # for the other tasks: the groups' members share one question
        return planned(request)

    with serving(script) as server:
        source = taught(teacher(server.url), tasks=4)
        assert len({*source.names[:8]}) == 8
        assert all(turn.plan for _, turn in plans(source))
    assert not meeting.broken


def test_plans_do_not_depend_on_when_they_arrive(taught: Callable[..., Any]) -> None:
    def late(request: dict[str, Any], number: int) -> Any:
        sleep(Random(str(request)).random() / 30)
        return planned(request)

    played = []
    for script in (planned, late):
        with serving(script) as server:
            played.append(taught(teacher(server.url)).batch(0).episodes)
    assert played[0] == played[1]


def test_each_sample_is_a_plan_of_its_own() -> None:
    episode = Episode(Task("toy", "red-blue", "train", 0), 0, 0, "Press red, then blue.")
    with serving(lambda request, number: said(f"1. way {number}")) as server:
        tutor = teacher(server.url)
        assert isinstance(Endpoint.shared(tutor), Endpoint)
        found = [tutor.plan(None, episode, (), sample).result() for sample in (0, 0, 1)]  # type: ignore[arg-type]
    assert found == [("way 0",), ("way 0",), ("way 1",)]
