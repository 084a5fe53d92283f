"""Credits against the true policy gradient: those that are unbiased by theory are, what is broken on purpose is seen."""

from __future__ import annotations

from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path

import pytest
import torch
from rich.console import Console

from pilotrl import exact as command
from pilotrl.training import exact
from pilotrl.training.algorithms import Algorithm, Credit, Played
from pilotrl.training.algorithms.credit.gae import Gae
from pilotrl.training.algorithms.credit.rloo import Rloo
from pilotrl.types import UserError

GROUPS, SIZE = 4000, 4


@pytest.fixture(scope="module")
def known() -> exact.World:
    return exact.world(0)


def found(known: exact.World, algorithm: Algorithm) -> exact.Estimate:
    return exact.estimate(known, algorithm, GROUPS, SIZE, 1)


def test_the_world_is_known(known: exact.World) -> None:
    assert known.chance.sum().item() == pytest.approx(1.0)
    assert len(set(known.rewards.tolist())) == 3
    first = (known.length.cumsum(0) - known.length)[known.rewards == 1]
    assert known.values[first].unique().item() == pytest.approx(float(known.chance @ known.rewards))
    owner = torch.arange(len(known.chance)).repeat_interleave(known.length)
    weight = torch.zeros(len(known.scores)).double().index_add(0, known.choice, known.chance[owner])
    assert (weight @ known.scores).abs().max() < 1e-12  # scores have mean 0
    assert known.gradient.norm() > 0.1


@pytest.mark.parametrize(
    ("word", "size"),
    [
        ("rloo", 1.0),
        ("group", 1 - 1 / SIZE),  # the mean holds the episode itself
        ("gae,gamma=1", 1.0),
        ("gae,gamma=1,gae_lambda=0", 1.0),
        ("plan_segment,gamma=1,gae_lambda=0.5", 1.0),
        ("reinforce_pp", None),  # over a deviation
    ],
)
def test_what_is_unbiased_by_theory_is(known: exact.World, word: str, size: float | None) -> None:
    estimate = found(known, command.credit(word))
    assert estimate.surprise < exact.NOISE
    assert size is None or estimate.size == pytest.approx(size, abs=4 * estimate.noise)
    assert estimate.high < 1  # than the plain policy gradient


@pytest.mark.parametrize("word", ["gae,gamma=0.5", "gigpo", "gigpo,gamma=1,scale_rewards=false", "judge"])
def test_what_is_biased_is_seen(known: exact.World, word: str) -> None:
    assert found(known, command.credit(word)).surprise > exact.NOISE


@dataclass(frozen=True)
class OffByOne(Rloo):
    """A call gets the advantage of the one before."""

    def advantages(self, played: Played) -> Credit:
        credit = super().advantages(played)
        return replace(credit, advantages=credit.advantages.roll(1))


@dataclass(frozen=True)
class OverRows(Rloo):
    """An episode is in its group's mean as often as it has calls."""

    def advantages(self, played: Played) -> Credit:
        row, rewards = played.group[played.episode], played.rewards[played.episode]
        mean = torch.bincount(row, rewards) / torch.bincount(row)
        return Credit(rewards - mean[row])


@dataclass(frozen=True)
class NoBootstrap(Gae):
    """What follows a call is its reward alone."""

    def advantages(self, played: Played) -> Credit:
        last = torch.ones_like(played.followed)
        last[:-1] = played.episode[1:] != played.episode[:-1]
        return Credit(torch.where(last, played.rewards[played.episode], 0.0) - played.values, played.values)


@pytest.mark.parametrize(
    "broken", [OffByOne(), OverRows(), NoBootstrap(gamma=1.0, gae_lambda=1.0, value_coef=0.0, value_lr=0.0)]
)
def test_what_is_broken_on_purpose_is_seen(known: exact.World, broken: Algorithm) -> None:
    assert found(known, broken).surprise > exact.NOISE


def test_a_command_shows_and_draws_a_line_for_each_and_refuses_what_is_not_there(tmp_path: Path) -> None:
    out = StringIO()
    command.show(["rloo", "gigpo,shrinkage=4"], 4, 40, 0, Console(file=out, width=120))
    assert "rloo" in out.getvalue()
    assert "gigpo,shrinkage=4" in out.getvalue()
    command.show(["rloo"], 4, 40, 0, Console(file=out), tmp_path / "table.png")
    assert (tmp_path / "table.png").stat().st_size > 5_000
    assert command.main(["rloo", "--picture", "nowhere/table.png"]) == command.main(["--picture", "table"]) == 2
    with pytest.raises(UserError, match="rlo: there is no such credit; there are demonstrated, gae"):
        command.credit("rlo")
    with pytest.raises(UserError, match="has no such key; the nearest is "):
        command.credit("gigpo,shrink=4")
