"""A world of which everything is known: every episode, how likely it is, and so the policy gradient that credits only estimate.

ToyEnv with one task of two buttons and four turns. Before each turn the planner writes one of two plans, then the executor
presses a right button, the other one, a wrong one, or says what is not understood. The policy is a table: logits of every
context, which is the role, the turn, the buttons pressed, and the plan. What an observation says is less: after `Nothing
happens.` nobody knows what was pressed. The gradient is that of the expected reward (the share of buttons pressed in order), and
the values are exact.
Not here: losses and their means, which is why tokens do not matter; several tasks; a policy that shares parameters.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from pilotrl.envs.toy import ToyEnv
from pilotrl.training.algorithms import Algorithm, Played

PLANS = 2
TURNS = 4
BLOCKS = 20
"""That the steps are cut into, for the interval of a ratio of variances."""
NOISE = 4.5
"""Standard errors up to which the largest of a hundred deviations is noise."""
Said = tuple[int, int, int, int, int, str]
"""A call: role, turn, buttons pressed, the plan before it (0: none), what was chosen, the last observation."""


def episodes(env: ToyEnv, task: str, actions: list[str], *done: int) -> Iterator[tuple[list[Said], float]]:
    """Every sequence of plans and actions, as its calls and its reward; `done` is what was chosen so far."""
    said: list[Said] = []
    observation, info = env.reset(options={"task": task})
    plan, over = 0, False
    for turn, (written, acted) in enumerate(zip(done[::2], done[1::2], strict=True), start=1):
        said.append((0, turn, env.pressed, plan, written, observation))
        said.append((1, turn, env.pressed, written + 1, acted, observation))
        plan = written + 1
        observation, _, terminated, truncated, info = env.step(actions[acted])
        over = terminated or truncated
    if over:
        yield said, info["score"]
        return
    for written in range(PLANS):
        for acted in range(len(actions)):
            yield from episodes(env, task, actions, *done, written, acted)


@dataclass(frozen=True)
class World:
    """L episodes, F calls of all of them in a row, U choices in contexts, P parameters."""

    chance: Tensor
    """[L] of each episode."""
    rewards: Tensor
    """[L]"""
    length: Tensor
    """[L] calls of each."""
    choice: Tensor
    """[F] which of the U was chosen."""
    calls: dict[str, Tensor]
    """[F] what `Played` says of a call, by name."""
    values: Tensor
    """[F] expected reward before each call."""
    right: Tensor
    """[F] 1 where an action was the right one, else 0; NaN of plans."""
    scores: Tensor
    """[U, P] gradient of the log-probability of each choice."""
    gradient: Tensor
    """[P] of the expected reward."""


def world(seed: int) -> World:
    """The world, with a policy drawn by a seed that is right about half of the time."""
    env = ToyEnv(split="train", max_turns=TURNS, seed=0)
    task = next(name for name in env.tasks if name.count("-") == 1 and len(set(name.split("-"))) == 2)
    colors = task.split("-")
    wrong = next(color for color in ("red", "green", "blue") if color not in colors)
    actions = [*(f"press[{color}]" for color in (*colors, wrong)), "wait"]
    found = list(episodes(env, task, actions))
    said = [call for calls, _ in found for call in calls]
    contexts = {context: number for number, context in enumerate(sorted({call[:4] for call in said}))}
    context = torch.tensor([contexts[call[:4]] for call in said])
    columns = torch.tensor([call[:5] for call in said]).T
    role, turn, pressed, plan, chosen = columns
    logits = torch.randn(len(contexts), len(actions), generator=torch.Generator().manual_seed(seed)).double()
    for (who, _, done, _), row in contexts.items():
        logits[row, done if who else slice(PLANS, None)] += 1.5 if who else -math.inf
    chances = logits.softmax(-1)
    width = len(actions)
    scores = torch.eye(width)[None] - chances[:, None, :]  # of each context: row the choice, column the parameter
    blocks: Tensor = torch.block_diag(*scores)  # type: ignore[no-untyped-call]
    rewards, length = torch.tensor([reward for _, reward in found]).double(), torch.tensor([len(c) for c, _ in found])
    owner = torch.arange(len(found)).repeat_interleave(length)
    chance = torch.zeros(len(found)).double().index_add(0, owner, chances[context, chosen].log()).exp()
    there, earned = (
        torch.zeros(len(contexts)).double().index_add(0, context, what[owner]) for what in (chance, chance * rewards)
    )
    choice = context * width + chosen
    weight = torch.zeros(len(blocks)).double().index_add(0, choice, (chance * rewards)[owner])
    texts = {text: number for number, text in enumerate(sorted({call[5] for call in said}))}
    calls = {"role": role, "turn": turn, "plan": plan, "observation": torch.tensor([texts[call[5]] for call in said])}
    right = torch.where(role == 1, (chosen == pressed).double(), torch.nan)
    values = (earned / there)[context]
    return World(chance, rewards, length, choice, calls, values, right, blocks, weight @ blocks)


def played(known: World, groups: int, size: int, critic: bool, seed: int) -> tuple[Played, Tensor]:
    """Groups of episodes as the policy plays them, and the choice of each call."""
    drawn = torch.multinomial(known.chance, groups * size, True, generator=torch.Generator().manual_seed(seed))
    length = known.length[drawn]
    episode = torch.arange(len(drawn)).repeat_interleave(length)
    place = torch.arange(len(episode)) - (length.cumsum(0) - length)[episode]
    call = (known.length.cumsum(0) - known.length)[drawn][episode] + place
    told = Played(
        rewards=known.rewards[drawn],
        group=torch.arange(groups).repeat_interleave(size),
        success=known.rewards[drawn] == 1,
        terminated=torch.ones(len(drawn), dtype=torch.bool),
        episode=episode,
        **{name: values[call] for name, values in known.calls.items()},
        followed=torch.ones(len(call), dtype=torch.bool),
        process_rewards=torch.stack([torch.full((len(call),), torch.nan).double(), known.right[call]]),
        step_rewards=torch.zeros(len(call)).double(),
        values=known.values[call] if critic else torch.empty(0),
    )
    return told, known.choice[call]


def gradients(known: World, advantages: Tensor, told: Played, choice: Tensor) -> Tensor:
    """[groups, P] the policy gradient that each group estimates: the mean over its episodes of advantages times scores."""
    groups, choices = int(told.group[-1]) + 1, len(known.scores)
    size = len(told.group) / groups
    where = told.group[told.episode] * choices + choice
    weight = torch.zeros(groups * choices).double().index_add(0, where, advantages / size)
    return weight.view(groups, choices) @ known.scores


@dataclass(frozen=True)
class Estimate:
    """How a credit's gradient compares with the true one."""

    size: float
    """Of the part that points where the true gradient does, over the true one; it is one factor on the learning rate."""
    turned: float
    """Of the part that points elsewhere, over the true one, less what the noise of the mean explains."""
    noise: float
    """What the noise of the mean alone would show there."""
    surprise: float
    """The largest of the part that points elsewhere over all parameters, in standard errors; up to NOISE it is noise."""
    variance: float
    """Of one group's gradient over that of the plain policy gradient (the advantage is the reward), both at size 1."""
    low: float
    high: float
    """95 % interval of that."""


def estimate(known: World, algorithm: Algorithm, groups: int, size: int, seed: int) -> Estimate:
    """Play, ask for credit, compare. All groups are one step to the algorithm."""
    told, choice = played(known, groups, size, algorithm.critic, seed)
    mine = gradients(known, algorithm.advantages(told).advantages, told, choice)
    plain = gradients(known, told.rewards[told.episode], told, choice)
    true, mean = known.gradient, mine.mean(0)
    length = true.norm()
    scale = mean @ true / length**2
    part = float(scale) if abs(scale) > 1e-9 else 1.0
    aside = mine - (mine @ true / length**2)[:, None] * true
    error = aside.std(0) / groups**0.5
    noise = error.norm() / length
    turned = (((aside.mean(0).norm() / length) ** 2 - noise**2).clamp(min=0)).sqrt()
    known_noise = error > 1e-12
    surprise = (aside.mean(0)[known_noise] / error[known_noise]).abs().max()
    blocks = [[block.var(0).sum() for block in every.tensor_split(BLOCKS)] for every in (mine / part, plain)]
    ratios = (torch.tensor(blocks[0]) / torch.tensor(blocks[1])).log()
    middle, half = ratios.mean(), 2.093 * ratios.std() / BLOCKS**0.5  # Student's t of 19 degrees of freedom
    bounds = [float((middle + side * half).exp()) for side in (0, -1, 1)]
    return Estimate(float(scale), float(turned), float(noise), float(surprise), *bounds)
